"""The rows that a run will train and evaluate on, read before it starts: plain dicts, each with its place.

Columns, rows and their order are those of `data.sources.load_data` (both use row_files.py, formats.py and
selection.py). Local files are read without importing datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from ..finding import Finding, Refusal
from .config import DataConfig, Source, as_source, stage_columns
from .formats import converter
from .joining import require_prompts
from .provenance import Place
from .row_faults import why_left_out
from .row_files import READ_ERRORS, check_local, empty_file, find_files, read_file, row_step, unreadable_file
from .selection import choose_rows, content, hold_out, name_columns, text_columns
from .sources import read_hub

if TYPE_CHECKING:
    from ..recipe.read import RawRecipe

# Limits per source. Of a larger source, evenly spaced rows are read, and the findings have their number.
MOST_ROWS, MOST_BYTES = 100_000, 1 << 30


@dataclass
class RowSet:
    """Rows of one source for one use, with our column names and in training order.

    numbers: row numbers in the file, from 1. lines: line numbers instead, if the file has one row per line.
    partly: the source has more rows than were read. files: the file of every row, if there are several.
    """

    use: Literal["train", "eval"]
    path: str
    rows: Sequence[dict]
    lines: list[int] | None = None
    numbers: list[int] = field(default_factory=list)
    partly: bool = False
    files: list[str] = field(default_factory=list)

    def number(self, i: int) -> int:
        """The line or row number of `rows[i]`, from 1."""
        return (self.lines or self.numbers)[i] if self.lines or self.numbers else i + 1

    def where(self, i: int) -> str:
        """`file:line`, or `source, row N`, of `rows[i]`."""
        return str(self.place(i))

    def place(self, i: int) -> Place:
        """The place of `rows[i]` in its source."""
        return Place(self.files[i] if self.files else self.path, self.number(i), self.unit)

    def label(self, i: int) -> int | str:
        """The number of `rows[i]`, with its file if there are several."""
        return f"{self.files[i]}:{self.number(i)}" if self.files else self.number(i)

    @property
    def unit(self) -> str:
        """The unit of `number`: `lines` or `rows`."""
        return "lines" if self.lines else "rows"

    def pick(self, indices: Sequence[int], use: str) -> RowSet:
        """The rows at `indices`, in that order."""
        lines = [self.lines[i] for i in indices] if self.lines else None
        numbers = None if lines else [self.number(i) for i in indices]
        rows = [self.rows[i] for i in indices]
        files = [self.files[i] for i in indices] if self.files else []
        return RowSet(use, self.path, rows, lines, numbers or [], self.partly, files)


def read_row_sets(raw: RawRecipe) -> tuple[list[RowSet], list[Finding]]:
    """Row sets of every source of a RawRecipe, train first; findings for sources that cannot be read.

    With data.eval_fraction there are two sets per source, split as the run will split them.
    """
    if "data" not in raw.values:
        return [], []
    config = _config(raw.values["data"])
    columns = stage_columns(raw.stage, raw.values)
    sets, findings = [], []
    for use, sources in (("train", config.sources), ("eval", config.eval_sources)):
        for source in sources:
            try:
                row_set, found = _read(source, use, columns, config.seed)
            except Refusal as refusal:
                row_set, found = None, refusal.findings
            sets += [row_set] if row_set else []
            findings += [f for f in found if f not in findings]
    for use in ("train", "eval"):
        try:
            require_prompts([(s.path, "prompt" in s.rows[0]) for s in sets if s.use == use and s.rows])
        except Refusal as refusal:
            findings += refusal.findings
    if config.eval_fraction and not findings:
        sets = _split(sets, config, raw)
    return sets, findings


def _config(values: dict) -> DataConfig:
    sources, held_out = ([as_source(s) for s in values.get(k, [])] for k in ("sources", "eval_sources"))
    return DataConfig(**values | {"sources": sources, "eval_sources": held_out})


def _read(source: Source, use: str, columns, seed: int) -> tuple[RowSet, list[Finding]]:
    row_set, findings = _read_rows(source, use)
    rows = row_set.rows
    if not rows:
        if not findings:
            raise empty_file(source.path)
        return row_set, findings
    theirs = _name_columns(source, columns, rows, row_set.files)
    convert = converter(source, columns[0])
    row_set.rows = [convert({ours: row.get(name) for ours, name in theirs.items()}) for row in rows]
    most = None if row_set.partly else source.max_rows
    kept, _ = choose_rows(row_set.rows, text_columns(columns[0]), most, seed)
    return row_set.pick(kept, use) if len(kept) < len(rows) else row_set, findings


def _name_columns(source: Source, columns, rows: Sequence[dict], files: list[str]) -> dict[str, str]:
    """`name_columns` of all files. As in Arrow, a file has every column that any of its rows has."""
    theirs: dict[str, str] = {}
    of_file = groupby(range(len(rows)), lambda i: files[i] if files else "")
    for file, numbers in of_file:
        own = [rows[i] for i in numbers]
        has = list(dict.fromkeys(key for row in own for key in row))
        theirs |= name_columns(source, *columns, has, own, path=file)
    return theirs


def _read_rows(source: Source, use: str) -> tuple[RowSet, list[Finding]]:
    """The rows of one source as they are stored, and findings."""
    if not check_local(source.path):
        rows, partly = _some(read_hub(source))
        return RowSet(use, source.path, rows, partly=partly), []
    files = find_files(source.path)
    try:
        step = row_step(files, MOST_ROWS, MOST_BYTES)
    except READ_ERRORS as error:
        raise unreadable_file(error, source.path) from error
    rows, numbers, of, findings, all_lines = [], [], [], [], True
    for file in files:
        found, at, lined, faults = read_file(file, source, step)
        if not found and not faults and step == 1:
            raise empty_file(file)
        rows += found
        numbers += at
        of += [file] * len(found) if len(files) > 1 else []
        findings += faults
        all_lines = all_lines and lined
    lines, numbers = (numbers, []) if all_lines else (None, numbers)
    path = source.path if len(files) > 1 else files[0]
    return RowSet(use, path, rows, lines, numbers, step > 1, of), findings


def _some(dataset) -> tuple[list[dict], bool]:
    step = -(-len(dataset) // MOST_ROWS) or 1
    if step > 1:
        dataset = dataset.select(range(0, len(dataset), step))
    return dataset.to_list(), step > 1


def _split(sets: list[RowSet], config: DataConfig, raw: RawRecipe) -> list[RowSet]:
    """Every set split in two, as `load_data` splits the joined rows; rows left out there stay in train."""
    required = stage_columns(raw.stage, raw.values)[0]
    owners, parts = [], {(use, id(s)): [] for use in ("train", "eval") for s in sets}
    for row_set in sets:
        for i, row in enumerate(row_set.rows):
            if why_left_out(row, raw.allow, required):
                parts["train", id(row_set)].append(i)
            else:
                owners.append((row_set, i))
    keys = [content(row_set.rows[i]) for row_set, i in owners]
    for use, indices in zip(("train", "eval"), hold_out(config, keys), strict=True):
        for owner, i in (owners[index] for index in indices):
            parts[use, id(owner)].append(i)
    return [s.pick(parts[use, id(s)], use) for use in ("train", "eval") for s in sets if parts[use, id(s)]]
