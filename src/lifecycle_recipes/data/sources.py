"""Rows from files or the Hub, checked before training, and the ledger with their counts."""

import atexit
import hashlib
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import contextmanager
from pathlib import Path

from ..finding import Refusal, refuse
from ..record.parents import hash_file
from .config import DataConfig, Source
from .provenance import number_rows
from .row_faults import SAME_PAIR, Faults, count_characters, row_fault, why_left_out
from .row_files import BUILDERS, LINED, check_local, empty_file, find_bad_line, require_text
from .scratch import scratch_directory
from .selection import choose_rows, name_columns, split, text_columns


def load_data(
    config: DataConfig,
    required_columns: list[str],
    optional_columns: Iterable[str] = (),
    allow: Collection[str] = (),
    scratch: str | Path | None = None,
):
    """Return (train Dataset, eval Dataset or None, ledger).

    The rows keep `required_columns`, those `optional_columns` that every source has, and the row number
    (provenance.py). The split is seeded, so every rank gets the same rows. Rows with a fault whose code is in
    `allow`, and pairs of two equal replies, are left out and counted.
    scratch: an empty directory for the files of `datasets` and all that is derived from these rows; without
    one, a temporary directory for the rows alone. The cache of `datasets` is not used: it identifies a file
    by its modification time and a step by its function's name, so a restored file or other code goes
    unnoticed.
    Raises Refusal: missing-file, empty-file, missing-column, no-rows, two-eval-splits, bad-line (with file
    and line) and the codes of row_faults.UNTRAINABLE (with file and rows, counted from 1).
    ledger: {fingerprint, rows_in, rows_out, eval_rows, left_out, sources}, where a source is
    {path, split, rows, kept, characters, use}: the number of its rows, of used rows, and of characters in
    these. The `kept` rows of all sources, in the order given, are the joined rows that `eval_fraction`
    splits.
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
    train = reader.concatenate(config.sources, "train")
    held_out = reader.concatenate(config.eval_sources, "eval")
    if config.eval_fraction:
        digest.update(f"eval_fraction {config.eval_fraction} seed {config.seed}".encode())
        kept, out = split(len(train), config.eval_fraction, config.seed)
        if not kept:
            raise refuse(
                "no-rows", "data.eval_fraction leaves no rows to train on", "lower data.eval_fraction"
            )
        train, held_out = train.select(kept), train.select(out)
    eval_rows = len(held_out) if held_out is not None else 0
    ledger["left_out"] = dict(ledger["left_out"])
    ledger |= {
        "fingerprint": digest.hexdigest(),
        "rows_in": sum(s["rows"] for s in ledger["sources"]),
        "rows_out": len(train) + eval_rows,
        "eval_rows": eval_rows,
    }
    left_out = sum(ledger["left_out"].values())
    if ledger["rows_in"] != ledger["rows_out"] + left_out:
        raise RuntimeError(f"rows are missing from the ledger: {ledger}")
    return train, held_out, ledger


class _Reader:
    """Reads all sources of a recipe; holds the columns, seed, digest, ledger and scratch that they share."""

    def __init__(self, required, optional, seed, allow, digest, ledger, scratch):
        self.required, self.optional, self.seed, self.allow = required, optional, seed, allow
        self.digest, self.ledger, self.scratch = digest, ledger, scratch

    def concatenate(self, sources: list[Source], use: str):
        """All rows of `sources` as one Dataset; None without sources to evaluate on."""
        from datasets import concatenate_datasets

        if not sources:
            if use == "train":
                raise refuse("no-rows", "data.sources is empty", "add at least one source")
            return None
        parts = [self.read(source, use) for source in sources]
        shared = [c for c in parts[0].column_names if all(c in p.column_names for p in parts)]
        joined = (
            concatenate_datasets([p.select_columns(shared) for p in parts]) if len(parts) > 1 else parts[0]
        )
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
        rows = _read(source, self.digest, self.scratch)
        entry = {"path": source.path, "split": source.split, "rows": len(rows), "use": use}
        self.ledger["sources"].append(entry)
        rows = self.keep_columns(rows, source)
        texts = text_columns(self.required)
        kept, blank = choose_rows(
            rows.select_columns(texts) if texts else rows, texts, source.max_rows, self.seed
        )
        self.book("empty text", blank)
        self.book("max_rows", len(rows) - blank - len(kept))
        faulty = self.check_rows(rows.select(kept), kept, source.path)
        kept = [i for i in kept if i not in faulty]
        entry |= {"kept": len(kept), "characters": self.characters}
        rows = number_rows(rows, sum(source["rows"] for source in self.ledger["sources"][:-1]))
        rows = rows.select(kept) if len(kept) < len(rows) else rows
        return _copy(rows, self.scratch) if self.scratch and not check_local(source.path) else rows

    def book(self, reason: str, rows: int) -> None:
        if rows:
            self.ledger["left_out"][reason] += rows

    def keep_columns(self, rows, source: Source):
        """The columns that the stage reads, renamed according to `source.columns`."""
        theirs = name_columns(source, self.required, self.optional, rows.column_names)
        if source.columns:
            self.digest.update(repr(sorted(source.columns.items())).encode())
        rows = rows.select_columns(list(dict.fromkeys(theirs.values())))
        return rows.rename_columns({name: ours for ours, name in theirs.items() if ours != name})

    def check_rows(self, rows, numbers: list[int], path: str) -> set[int]:
        """Refuse faulty rows, on which upstream would train silently; return those that the recipe allows.

        numbers: row numbers in the file, from 0.
        """
        faults, gone, self.characters = Faults(), set(), 0
        for number, row in zip(numbers, rows, strict=True):
            if reason := why_left_out(row, self.allow, self.required):
                self.book(reason, 1)
                gone.add(number)
            elif fault := row_fault(row, self.required):
                faults.add(*fault, f"{path}, row {number + 1}", number + 1)
            else:
                self.characters += count_characters(row)
        if findings := faults.findings():
            raise Refusal(*findings)
        return gone


def _read(source: Source, digest, scratch: str | Path | None):
    """One source as a Dataset; adds its content (file) or identity (Hub) to the digest."""
    from datasets import load_dataset

    if not check_local(source.path):
        return read_hub(source, digest)
    path = Path(source.path)
    require_text(path)
    digest.update(hash_file(path).encode())
    try:
        # A local file has one split, whatever its name in the recipe; `datasets` names it train.
        with _quiet("datasets.packaged_modules.json.json"):
            cache = str(scratch or until_exit())
            rows = load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train", cache_dir=cache)
    except Exception as error:
        # Upstream's errors (DatasetGenerationError, UnicodeDecodeError, ...) have neither file nor line.
        if path.suffix in LINED:
            find_bad_line(path)
        raise unreadable_file(error, source.path) from error
    if not len(rows):
        raise empty_file(source.path)
    return rows


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


def unreadable_file(error: Exception, path: str) -> Refusal:
    cause = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
    return refuse("unreadable-file", cause, "open it with `datasets.load_dataset`", path)


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
