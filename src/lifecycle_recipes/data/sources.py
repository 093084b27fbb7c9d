"""Rows from files or the Hub, checked before anything trains, and the ledger that accounts for them."""

import codecs
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

from ..finding import Finding, Refusal, refuse
from .config import DataConfig, Source

# `datasets` builder of a local file, by its ending.
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text"}
CONVERSATIONS = ("messages", "prompt", "chosen", "rejected", "completion")
ROLES = ("system", "user", "assistant", "tool")
SHOWN = 5  # bad rows named one by one; the rest are counted


def load_data(config: DataConfig, required_columns: list[str], optional_columns: Iterable[str] = ()):
    """Return (train Dataset, eval Dataset or None, ledger).

    Only `required_columns` and those `optional_columns` that every source has are kept. The split is seeded,
    so every rank gets the same rows. Raises Refusal: missing-file, empty-file, missing-column, bad-line (with
    file and line), bad-row (with file and row, counted from 1), no-rows.
    ledger: {fingerprint, sources: [{path, split, rows, use}], rows_in, rows_out, eval_rows, left_out}.
    """
    if config.eval_sources and config.eval_fraction:
        raise refuse(
            "two-eval-splits",
            "data.eval_sources and data.eval_fraction both name held-out rows",
            "keep one of them",
        )
    digest, ledger = hashlib.sha256(), {"sources": [], "left_out": Counter()}
    columns = (required_columns, list(optional_columns), config.seed)
    train = _concatenate(config.sources, "train", columns, digest, ledger)
    held_out = _concatenate(config.eval_sources, "eval", columns, digest, ledger)
    if config.eval_fraction:
        digest.update(f"eval_fraction {config.eval_fraction} seed {config.seed}".encode())
        parts = train.train_test_split(test_size=config.eval_fraction, seed=config.seed)
        train, held_out = parts["train"], parts["test"]
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
        raise RuntimeError(f"rows vanished uncounted: {ledger}")
    return train, held_out, ledger


def _concatenate(sources: list[Source], use: str, columns, digest, ledger):
    """All rows of `sources` as one Dataset (None without sources); adds to the digest and the ledger."""
    from datasets import concatenate_datasets

    required, optional, seed = columns
    parts = []
    for source in sources:
        rows = _read(source, digest)
        ledger["sources"].append({"path": source.path, "split": source.split, "rows": len(rows), "use": use})
        if missing := [c for c in required if c not in rows.column_names]:
            has = ", ".join(map(repr, rows.column_names))
            raise refuse(
                "missing-column",
                f"no column {', '.join(map(repr, missing))}; it has {has}",
                "rename the column in the data, or name the file that has it",
                source.path,
            )
        rows = _drop_empty_texts(rows.select_columns(_present(rows, required, optional)), required, ledger)
        _check_rows(rows, required, source.path)
        if source.max_rows is not None and source.max_rows < len(rows):
            ledger["left_out"]["max_rows"] = (
                ledger["left_out"].get("max_rows", 0) + len(rows) - source.max_rows
            )
            rows = rows.shuffle(seed=seed).select(range(source.max_rows))
        parts.append(rows)
    if not parts:
        if use == "train":
            raise refuse("no-rows", "data.sources is empty", "name at least one source")
        return None
    shared = [c for c in parts[0].column_names if all(c in p.column_names for p in parts)]
    joined = concatenate_datasets([p.select_columns(shared) for p in parts]) if len(parts) > 1 else parts[0]
    if not len(joined):
        raise refuse("no-rows", f"no row is left to {use} on", "", ", ".join(s.path for s in sources))
    return joined


def _present(rows, required: list[str], optional: list[str]) -> list[str]:
    return [*required, *(c for c in optional if c in rows.column_names)]


def _read(source: Source, digest):
    """One source as a Dataset; its content (file) or identity (Hub) goes into the digest."""
    from datasets import load_dataset

    path = Path(source.path)
    if path.suffix not in BUILDERS:
        if path.exists() or source.path.startswith((".", "/")):
            raise refuse(
                "unknown-file-type",
                f"a local source ends in {', '.join(BUILDERS)}",
                "convert it",
                source.path,
            )
        return _read_hub(source, digest)
    if not path.is_file():
        raise refuse(
            "missing-file", "there is no such file", "correct the path, or make the file", source.path
        )
    _digest_file(path, digest)
    try:
        # A named local file has one split whatever the recipe calls it; `datasets` names it train.
        with _quiet("datasets.packaged_modules.json.json"):
            rows = load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train")
    except Exception as error:
        # Upstream names neither the file nor the line (DatasetGenerationError, UnicodeDecodeError, ...).
        if path.suffix != ".parquet":
            find_bad_line(path)
        cause = str(error.__cause__ or error).splitlines()[0]
        raise refuse("unreadable-file", cause, "open it with `datasets.load_dataset`", source.path) from error
    if not len(rows):
        raise refuse("empty-file", "the file holds no row", "make it again, or leave it out", source.path)
    return rows


def _digest_file(path: Path, digest) -> None:
    """Add the file's bytes to the digest; refuse an empty file and, parquet apart, one not in UTF-8."""
    # Arrow's JSON reader takes bytes that are not UTF-8 and fails much later, without a line number.
    decoder = codecs.getincrementaldecoder("utf-8")() if path.suffix != ".parquet" else None
    blank = True
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            blank = blank and not piece.strip()
            try:
                if decoder:
                    decoder.decode(piece)
            except UnicodeDecodeError:
                find_bad_line(path)
    if blank:
        raise refuse("empty-file", "the file is empty", "make it again, or leave it out", str(path))


@contextmanager
def _quiet(logger: str):
    """Mute a logger whose message we are about to raise again, with the line it lacks."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(level)


def _read_hub(source: Source, digest):
    from datasets import load_dataset

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # offline, gated, no such split: upstream's own words name the cause
        cause = str(error).splitlines()[0]
        raise refuse(
            "unreadable-source",
            f"the Hub gave no rows: {cause}",
            "check the id, the split and the network",
            source.path,
        ) from error
    # The split's fingerprint covers the revision that was really fetched.
    digest.update(f"{source.path} {source.name} {source.split} {rows._fingerprint}".encode())
    return rows


def find_bad_line(path: Path) -> None:
    """Raise bad-line for the first lines of a text or JSON-lines file that cannot be read; else return."""
    findings = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8").rstrip()
                if path.suffix == ".jsonl" and text and not isinstance(json.loads(text), dict):
                    raise TypeError("not a JSON object")
            except UnicodeDecodeError as error:
                says = f"not UTF-8: byte {error.object[error.start]:#04x} at column {error.start + 1}"
            except json.JSONDecodeError as error:
                says = f"not JSON: {error.msg} at column {error.colno}"
            except TypeError as error:
                says = str(error)
            else:
                continue
            findings.append(
                Finding("bad-line", "error", says, "repair or remove the line", f"{path}:{number}")
            )
            if len(findings) == SHOWN:
                break
    if findings:
        raise Refusal(*findings)


def _drop_empty_texts(rows, required: list[str], ledger):
    """Blank texts hold nothing to learn: left out and counted. (A null is a defect: see `_check_rows`.)"""
    if "text" not in required:
        return rows
    keep = [i for i, text in enumerate(rows["text"]) if text is None or str(text).strip()]
    if len(keep) == len(rows):
        return rows
    ledger["left_out"]["empty text"] = ledger["left_out"].get("empty text", 0) + len(rows) - len(keep)
    return rows.select(keep)


def _check_rows(rows, required: list[str], path: str) -> None:
    """Refuse rows that upstream would train on in silence."""
    findings, bad = [], 0
    for number, row in enumerate(rows, start=1):
        says = next((s for column in required if (s := _fault(column, row[column]))), None)
        if says is None:
            continue
        bad += 1
        if bad <= SHOWN:
            findings.append(Finding("bad-row", "error", says, "", f"{path}, row {number}"))
    if bad > SHOWN:
        findings.append(Finding("bad-row", "error", f"{bad - SHOWN} more rows like these", "", path))
    if findings:
        raise Refusal(*findings)


def _fault(column: str, value) -> str | None:
    """What is wrong with one cell, or None."""
    if column == "label":
        return None if isinstance(value, bool) else f"label is {value!r}, not true or false"
    if column in CONVERSATIONS and not isinstance(value, str):
        return _conversation_fault(column, value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"{column} is empty"
    if column == "text" and not isinstance(value, str):
        return f"text is {type(value).__name__}, not a string"
    return f"{column} is a string, not a list of messages" if column == "messages" else None


def _conversation_fault(column: str, messages) -> str | None:
    if not messages:
        return f"no {column}"
    if not isinstance(messages, list):
        return f"{column} is {type(messages).__name__}, not a list of messages"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            return f"{column}: message {number} has the role {role!r}, not one of {', '.join(ROLES)}"
        content = message.get("content")
        if not message.get("tool_calls") and not (isinstance(content, str) and content.strip()):
            return f"{column}: message {number} ({message['role']}) has no content"
    if column in ("messages", "chosen", "rejected", "completion") and not any(
        m["role"] == "assistant" for m in messages
    ):
        return f"{column}: no assistant message"
    return None
