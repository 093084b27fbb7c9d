"""Which columns and rows of a source a run uses, and in which order.

The run (sources.py) and the checks before it (row_sets.py) both use this module, so that a check reads the
rows of the run. Both use `row_faults.why_left_out` to leave out rows with a fault.

Samples and splits equal those of `Dataset.shuffle(seed).select(...)` and `Dataset.train_test_split(test_size,
seed)` in datasets 5.2 (arrow_dataset.py). Numpy only: importing datasets would slow down every check.
"""

import math
import os
from collections.abc import Sequence

from ..finding import refuse
from .config import DataConfig, Source
from .formats import fitting, format_columns
from .row_faults import CONVERSATIONS
from .row_files import ending_of, find_files, plain_ending, plain_endings


def name_columns(
    source: Source,
    required: list[str],
    optional: list[str],
    has: list[str],
    rows: Sequence[dict] = (),
    partly: bool = False,
    path: str = "",
) -> dict[str, str]:
    """{the format's name: the source's name} of the columns to read.

    required, optional: of the stage. rows: some of the source, from which the fix is found. partly: `has` is of
    its first rows only, and an optional column may come later. path: the file, for a source of several.
    Raises Refusal: missing-column, unread-column, column-read-twice, and what `format_columns` raises.
    """
    ours = required
    required, optional = format_columns(source, required, optional)
    if unread := [c for c in source.columns if c not in (*required, *optional)]:
        reads = ", ".join(map(repr, [*required, *optional]))
        kind = "this stage" if source.format == "messages" else f"format: {source.format} of this stage"
        raise refuse(
            "unread-column",
            f"data.sources[].columns names {unread[0]!r}, which {kind} does not read",
            f"{kind} reads {reads}: write one of these on the left of the colon",
            source.path,
        )
    wanted = {c: source.columns.get(c, c) for c in (*required, *optional)}
    needed = {c: name for c, name in wanted.items() if c in required or source.columns.get(c)}
    missing = {c: n for c, n in needed.items() if n not in has and not (partly and c in optional)}
    if missing and "completion" in needed and {"chosen", "rejected"} <= set(has):
        raise refuse(
            "missing-column",
            f"no column {', '.join(map(repr, missing.values()))}: these are pairs, which the kto stage does not read",
            "train on them with the dpo stage, or write each pair as two rows: chosen with `label: true` and "
            "rejected with `label: false`",
            source.path,
        )
    if missing:
        maps = ", ".join(f"{column}: <its name>" for column in missing)
        raise refuse(
            "missing-column",
            f"no column {', '.join(map(repr, missing.values()))}; it has {', '.join(map(repr, has))}",
            _other_files(source, path)
            or fitting(source, rows, has, ours)
            or f"map the column name: `columns: {{{maps}}}`, or use another file",
            path or source.path,
        )
    found = {c: name for c, name in wanted.items() if name in has}
    if twice := [c for c, name in found.items() if c != name and list(found.values()).count(name) > 1]:
        message = f"the column {found[twice[0]]!r} would be read twice, once as {twice[0]!r}"
        raise refuse(
            "column-read-twice", message, "map each column of `columns` to a different column", source.path
        )
    return found


def _other_files(source: Source, path: str) -> str:
    """The pattern that leaves out a file of a directory, such as a README.txt; empty if all have its ending."""
    if not os.path.isdir(source.path):
        return ""
    others = [file for file in find_files(source.path) if plain_ending(file) != plain_ending(path)]
    if not path or not others:
        return ""
    return f"to leave this file out, give a pattern: `path: {os.path.join(source.path, '*' + ending_of(others[0]))}`"


def text_columns(columns: list[str]) -> list[str]:
    """The columns among a stage's `columns` that hold plain text."""
    return [c for c in columns if c not in (*CONVERSATIONS, "label")]


def choose_rows(
    rows: Sequence[dict], texts: list[str], max_rows: int | None, seed: int
) -> tuple[list[int], int]:
    """(indices of the rows of one source that are used, in training order; how many are blank).

    A row with a blank text in a column of `texts` is left out: it has no loss, but unlike a null it is not a
    fault. `max_rows` of the other rows are sampled.
    """
    blank = {i for i, row in enumerate(rows) if _is_blank(row, texts)} if texts else set()
    kept = [i for i in range(len(rows)) if i not in blank]
    chosen = sample(len(kept), max_rows, seed)
    return kept if chosen is None else [kept[i] for i in chosen], len(blank)


def _is_blank(row: dict, texts: list[str]) -> bool:
    return any(isinstance(text := row.get(c), str) and not text.strip() for c in texts)


def sample(rows: int, max_rows: int | None, seed: int) -> list[int] | None:
    """Indices of a seeded sample of `max_rows` out of `rows`, in training order; None for all rows."""
    if max_rows is None or max_rows >= rows:
        return None
    return _permutation(rows, seed)[:max_rows]


def hold_out(config: DataConfig, rows: int) -> tuple[list[int], list[int]]:
    """(train, held-out) indices of the joined rows of `config.sources`, by `eval_fraction`.

    Neighbouring parts of a text resemble each other: of .txt files alone, the last part is held out.
    """
    if all(plain_endings(source.path) == {".txt"} for source in config.sources):
        kept = rows - math.ceil(config.eval_fraction * rows)
        return list(range(kept)), list(range(kept, rows))
    return split(rows, config.eval_fraction, config.seed)


def split(rows: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(train, held-out) indices; the number of held-out rows is `fraction` of `rows`, rounded up."""
    order, held_out = _permutation(rows, seed), math.ceil(fraction * rows)
    return order[held_out:], order[:held_out]


def _permutation(rows: int, seed: int) -> list[int]:
    import numpy as np

    return np.random.default_rng(seed).permutation(rows).tolist()
