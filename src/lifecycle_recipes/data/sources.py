"""Rows from files or the Hub, checked before training, and the ledger with their counts."""

import atexit
import hashlib
import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ..finding import Refusal, refuse
from ..record.parents import hash_file
from .config import DataConfig, Source
from .formats import converter, converts, format_columns, is_simple, name_map
from .joining import join
from .provenance import file_of, number_rows
from .row_faults import (
    CONVERSATIONS,
    FAULT,
    SAME_PAIR,
    Faults,
    count_characters,
    row_fault,
    why_left_out,
)
from .row_files import (
    BUILDERS,
    check_local,
    each_row,
    empty_file,
    find_bad_line,
    find_files,
    has_bom,
    holds_lines,
    require_text,
    unreadable_file,
)
from .scratch import scratch_directory
from .selection import choose_rows, content, hold_out, name_columns, text_columns
from .shares import choose, has_weights

# Options of a source that change its rows; they join the fingerprint where they are set.
OPTIONS = ("columns", "roles", "system", "field", "format", "text_by")


def load_data(
    config: DataConfig,
    required_columns: list[str],
    optional_columns: Iterable[str] = (),
    allow: Collection[str] = (),
    scratch: str | Path | None = None,
):
    """Return (train Dataset, eval Dataset or None, ledger).

    The rows keep `required_columns`, those `optional_columns` that any source has, and the row number
    (provenance.py). The split is seeded, so every rank gets the same rows. Rows with a fault whose code is in
    `allow`, and pairs of two equal replies, are left out and counted.
    scratch: an empty directory for the files of `datasets` and all that is derived from these rows; without
    one, a temporary directory for the rows alone. The cache of `datasets` is not used: it identifies a file
    by its modification time and a step by its function's name, so a restored file or other code goes
    unnoticed.
    Raises Refusal: missing-file, empty-file, missing-column, no-rows, two-eval-splits, sources-differ,
    bad-line (with file and line), what `format_columns` raises, and the codes of row_faults.UNTRAINABLE (with
    file and rows, counted from 1).
    ledger: {fingerprint, rows_in, rows_out, eval_rows, left_out, sources}, where a source is
    {path, split, rows, kept, characters, use}: the number of its rows, of used rows, and of characters in
    these; of several files also `files`, with [path, rows] of each. The `kept` rows of all sources, in the
    order given, are the joined rows that `eval_fraction` splits. Weights choose among those that are not held
    out (shares.py); then also `repeated`, unless it is 0, the rows that train again.
    """
    if config.eval_sources and config.eval_fraction:
        raise refuse(
            "two-eval-splits",
            "data.eval_sources and data.eval_fraction both define held-out rows",
            "keep one of them",
        )
    digest, ledger = hashlib.sha256(), {"sources": [], "left_out": Counter()}
    reader = _Reader(
        required_columns, list(optional_columns), config.seed, set(allow), digest, ledger, scratch
    )
    reader.keys = [] if config.eval_fraction else None
    train = reader.concatenate(config.sources, "train")
    held_out = reader.concatenate(config.eval_sources, "eval")
    if config.eval_fraction:
        digest.update(
            f"eval_fraction {config.eval_fraction} seed {config.seed}, equal rows together".encode()
        )
        kept, out = hold_out(config, reader.keys)
        if not kept:
            fix = "lower data.eval_fraction"
            if any(source.text_by == "file" for source in config.sources):
                fix = "set `text_by: paragraph`, since a whole file is one row"
            raise refuse("no-rows", "data.eval_fraction leaves no rows to train on", fix)
        held_out = train.select(out)
    else:
        kept = range(len(train))
    if has_weights(config):
        weights = [source.weight for source in config.sources]
        digest.update(f"weights {weights} {config.max_repetition} seed {config.seed}".encode())
        kept = choose(config, kept, reader.sizes, ledger)
    train = train.select(kept) if config.eval_fraction or has_weights(config) else train
    eval_rows = len(held_out) if held_out is not None else 0
    ledger["left_out"] = dict(ledger["left_out"])
    ledger |= {
        "fingerprint": digest.hexdigest(),
        "rows_in": sum(s["rows"] for s in ledger["sources"]),
        "rows_out": len(train) + eval_rows,
        "eval_rows": eval_rows,
    }
    left_out = sum(ledger["left_out"].values())
    if ledger["rows_in"] + ledger.get("repeated", 0) != ledger["rows_out"] + left_out:
        raise RuntimeError(f"rows are missing from the ledger: {ledger}")
    return train, held_out, ledger


class _Reader:
    """Reads all sources of a recipe; holds the columns, seed, digest, ledger and scratch that they share."""

    def __init__(self, required, optional, seed, allow, digest, ledger, scratch):
        self.required, self.optional, self.seed, self.allow = required, optional, seed, allow
        self.digest, self.ledger, self.scratch = digest, ledger, scratch
        self.sizes: list[int] = []  # characters of each row that is read, of all sources
        self.keys: list[int] | None = None  # of the content of every row in order, if the rows will be split

    def concatenate(self, sources: list[Source], use: str):
        """All rows of `sources` as one Dataset; None without sources to evaluate on."""
        if not sources:
            if use == "train":
                raise refuse("no-rows", "data.sources is empty", "add at least one source")
            return None
        joined = join([self.read(source, use) for source in sources], [source.path for source in sources])
        if not len(joined):
            raise self.nothing_left(use, ", ".join(s.path for s in sources))
        return joined

    def nothing_left(self, use: str, paths: str) -> Refusal:
        if self.ledger["left_out"][SAME_PAIR]:
            message, fix = "chosen equals rejected in every pair", "provide pairs of two different replies"
            return refuse("no-pairs", message, fix, paths)
        return refuse("no-rows", f"no rows are left to {use} on", "add a source with rows", paths)

    def read(self, source: Source, use: str):
        """The rows of one source that are used, with our column names."""
        self.faults: dict[int, tuple[str, str]] = {}
        rows, files = self.read_files(source)
        entry = {"path": source.path, "split": source.split, "rows": len(rows), "use": use}
        # A source of several files also has the number of rows of each.
        entry |= {"files": files} if len(files) > 1 else {}
        self.ledger["sources"].append(entry)
        texts = text_columns(self.required)
        kept, blank = choose_rows(
            rows.select_columns(texts) if texts else rows, texts, source.max_rows, self.seed
        )
        self.book("empty text", blank)
        self.book("max_rows", len(rows) - blank - len(kept))
        before = len(self.sizes)
        faulty = self.check_rows(rows.select(kept), kept, entry)
        kept = [i for i in kept if i not in faulty]
        entry |= {"kept": len(kept), "characters": sum(self.sizes[before:])}
        rows = number_rows(rows, sum(source["rows"] for source in self.ledger["sources"][:-1]))
        rows = rows.select(kept) if len(kept) < len(rows) else rows
        return _copy(rows, self.scratch) if self.scratch and not check_local(source.path) else rows

    def read_files(self, source: Source) -> tuple:
        """(Dataset with our columns, [path, rows] of every file); faults of rows are added to `self.faults`."""
        format_columns(source, self.required, self.optional)
        unset, values = asdict(Source("")), asdict(source)
        if options := sorted((n, values[n]) for n in OPTIONS if values[n] != unset[n]):
            self.digest.update(repr(options).encode())
        if not check_local(source.path):
            stored = read_hub(source, self.digest)
            rows = self.convert_rows(stored, source, 0) if converts(source) else self.plain(stored, source, 0)
            return rows, [[source.path, len(rows)]]
        parts, files = [], []
        for path in find_files(source.path):
            self.digest.update(hash_file(path).encode())
            first = sum(rows for _, rows in files)
            stored = _load(path, self.scratch) if is_stored_plainly(path, source) else None
            if stored is None:
                part = self.convert_rows(each_row(path, source), source, first, path)
            else:
                part = self.plain(stored, source, first, path)
            parts.append(part)
            files.append([path, len(part)])
        return join(parts, [path for path, _ in files]), files

    def plain(self, stored, source: Source, first: int, path: str = ""):
        """Rows in the stage's own columns; converted only where messages are stored in another way."""
        rows = self.keep_columns(stored, source, path)
        return rows if _has_plain_messages(rows) else self.convert_rows(stored, source, first, path)

    def convert_rows(self, rows: Iterable[dict], source: Source, first: int, path: str = ""):
        """The rows in the columns of the stage, one by one through a file of JSON lines.

        first: the number in the source of the first row.
        """
        theirs = name_map(source, self.required, self.optional)
        convert = converter(source, self.required)
        has, head, number = {}, [], -1
        directory = str(self.scratch or until_exit())
        with tempfile.NamedTemporaryFile(
            "w", suffix=".jsonl", dir=directory, delete=False, encoding="utf-8"
        ) as file:
            for number, stored in enumerate(rows):
                has |= dict.fromkeys(stored)
                head += [stored] if not number else []
                row = {ours: stored.get(name) for ours, name in theirs.items()}
                row = convert(row)
                if fault := row.pop(FAULT, None):
                    self.faults[first + number] = tuple(fault)
                cells = {c: row.get(c) for c in self.required}
                cells |= {c: row[c] for c in self.optional if row.get(c) is not None}
                file.write(json.dumps(cells, ensure_ascii=False) + "\n")
        if number < 0:
            raise empty_file(path or source.path)
        name_columns(source, self.required, self.optional, list(has), head, path=path)
        try:
            return _load_with("json", file.name, self.scratch)
        except Exception as error:
            raise unreadable_file(error, path or source.path) from error

    def book(self, reason: str, rows: int) -> None:
        if rows:
            self.ledger["left_out"][reason] += rows

    def keep_columns(self, rows, source: Source, path: str):
        """The columns that the stage reads, renamed according to `source.columns`."""
        head = [rows[0]] if len(rows) else []
        theirs = name_columns(source, self.required, self.optional, rows.column_names, head, path=path)
        rows = rows.select_columns(list(dict.fromkeys(theirs.values())))
        return rows.rename_columns({name: ours for ours, name in theirs.items() if ours != name})

    def check_rows(self, rows, numbers: list[int], entry: dict) -> set[int]:
        """Refuse faulty rows, on which upstream would train silently; return those that the recipe allows.

        numbers: row numbers in the source, from 0. entry: of the source, in the ledger.
        """
        faults, gone = Faults(required=self.required), set()
        for number, row in zip(numbers, rows, strict=True):
            row = {FAULT: self.faults[number]} if number in self.faults else row
            if reason := why_left_out(row, self.allow, self.required):
                self.book(reason, 1)
                gone.add(number)
            elif fault := row_fault(row, self.required):
                path, index = file_of(entry, number)
                label = f"{path}:{index + 1}" if "files" in entry else index + 1
                faults.add(*fault, f"{path}, row {index + 1}", label, row)
            else:
                self.sizes.append(count_characters(row))
                if self.keys is not None:
                    self.keys.append(hash(content(row)))
        if findings := faults.findings():
            raise Refusal(*findings)
        return gone


def is_stored_plainly(path: str, source: Source) -> bool:
    """Whether `datasets` reads the file as `each_row` does, and no row of it has to be converted."""
    if converts(source) or source.field or Path(path).suffix not in BUILDERS:
        return False
    if Path(path).suffix == ".parquet":
        return True
    if Path(path).suffix == ".json" and not holds_lines(path, source):
        return False
    return not has_bom(path) and (Path(path).suffix != ".txt" or source.text_by == "line")


def _has_plain_messages(rows) -> bool:
    """Whether all conversations are lists of messages whose content is a string."""
    from datasets import Value

    for column in (c for c in CONVERSATIONS if c in rows.column_names):
        feature = rows.features[column]
        if isinstance(feature, Value):
            if column == "messages" and feature.dtype != "null":
                return False  # messages as JSON
            continue
        message = getattr(feature, "feature", None)
        if isinstance(message, dict):
            if not isinstance(message.get("content", Value("null")), Value):
                return False
        # Messages with different keys have no type of their own.
        elif not all(isinstance(messages, list) and is_simple(messages) for messages in rows[column]):
            return False
    return True


def _load(path: str, scratch: str | Path | None):
    """The rows of a file that is stored plainly, as a Dataset; None if Arrow finds no type for a column."""
    require_text(Path(path))
    try:
        rows = _load_with(BUILDERS[Path(path).suffix], path, scratch)
    except Exception as error:
        # Upstream's errors (DatasetGenerationError, UnicodeDecodeError, ...) have neither file nor line.
        if Path(path).suffix == ".parquet":
            raise unreadable_file(error, path) from error
        if Path(path).suffix in (".jsonl", ".txt"):
            find_bad_line(Path(path))
        return None
    if not len(rows):
        raise empty_file(path)
    return rows


def _load_with(builder: str, path: str, scratch: str | Path | None):
    from datasets import load_dataset

    # A local file has one split, whatever its name in the recipe; `datasets` names it train.
    with _quiet("datasets.packaged_modules.json.json"):
        return load_dataset(builder, data_files=path, split="train", cache_dir=str(scratch or until_exit()))


def until_exit() -> str:
    """A temporary directory that is removed when this process ends."""
    directory = str(scratch_directory(tempfile.gettempdir(), "lifecycle-rows"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _copy(rows, scratch: str | Path):
    """The same rows in files below `scratch`, since `datasets` writes derived files beside them."""
    from datasets import load_from_disk

    directory = tempfile.mkdtemp(dir=scratch)
    rows.save_to_disk(directory)
    return load_from_disk(directory)


@contextmanager
def _quiet(logger: str):
    """Mute a logger whose message is raised again with the line number that it lacks."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(level)


def read_hub(source: Source, digest=None):
    """A split on the Hub, or in its cache, as a Dataset; raises Refusal unreadable-source."""
    from datasets import load_dataset

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # offline, gated, no such split: upstream's message has the cause
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise refuse(
            "unreadable-source",
            f"loading rows from the Hub failed: {cause}",
            "check the id, the split and the network",
            source.path,
        ) from error
    # The split's fingerprint depends on the revision that was fetched.
    if digest:
        digest.update(f"{source.path} {source.name} {source.split} {rows._fingerprint}".encode())
    return rows
