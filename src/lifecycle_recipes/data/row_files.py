"""Local files of rows, read line by line so that a finding has a line number. No datasets, no torch."""

import codecs
import json
import os
from pathlib import Path

from ..finding import Finding, Refusal, refuse
from .row_faults import Faults

# File ending -> its builder in `datasets`.
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text"}
LINED = (".jsonl", ".txt")  # one row per line
_FIXES = {
    "bad-line": "correct or remove the line",
    "line-not-utf8": "save the file as UTF-8",
    "line-not-an-object": "write one JSON object per line",
}


def check_local(path: str) -> bool:
    """Whether `path` is a local file, else a Hub id. Raises Refusal unknown-file-type, missing-file."""
    if Path(path).suffix not in BUILDERS:
        if os.path.exists(path) or path.startswith((".", "/")):
            raise refuse(
                "unknown-file-type", f"a local source ends in {', '.join(BUILDERS)}", "convert it", path
            )
        return False
    if not os.path.isfile(path):  # Path.is_file raises on a name that is too long
        raise refuse("missing-file", "the file does not exist", "correct the path, or create the file", path)
    return True


def require_text(path: Path) -> None:
    """Refuse an empty file and one that is not UTF-8; of a parquet file only the size is checked."""
    if path.suffix == ".parquet":
        if not path.stat().st_size:
            raise empty_file(str(path))
        return
    # Arrow's JSON reader accepts bytes that are not UTF-8 and fails much later, without a line number.
    decoder, blank = codecs.getincrementaldecoder("utf-8")(), True
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            blank = blank and not piece.strip()
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                find_bad_line(path)
    if blank:
        raise empty_file(str(path))


def empty_file(path: str) -> Refusal:
    return refuse(
        "empty-file",
        "the file is empty: it has no rows",
        "generate it again, or remove it from the recipe",
        path,
    )


def find_bad_line(path: Path) -> None:
    """Raise for the lines of a text or JSON-lines file that cannot be read; else return."""
    findings = read_lines(path)[2]
    if findings:
        raise Refusal(*findings)


def read_lines(path: Path, step: int = 1) -> tuple[list[dict], list[int], list[Finding]]:
    """(rows, their line numbers, findings) of a .jsonl or .txt file; blank lines of a .jsonl hold no row.

    step: 1 for every line, 2 for every second line, and so on (see `line_step`).
    findings: bad-line (not JSON), line-not-utf8, line-not-an-object; one each, with every line number.
    """
    json_lines, rows, numbers, faults = path.suffix != ".txt", [], [], Faults("lines")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number % step:
                continue
            row = _row(line, json_lines, faults, f"{path}:{number}", number)
            if row is not None:
                rows.append(row)
                numbers.append(number)
    return rows, numbers, faults.findings(_FIXES)


def blank_lines(path: Path) -> tuple[list[int], int]:
    """(numbers, from 1, of the lines without a row; number of all lines) of a .jsonl or .txt file."""
    number, blank, text = 0, [], path.suffix == ".txt"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not text and line.isspace():
                blank.append(number)
    return blank, number


def line_step(path: Path, most_lines: int, most_bytes: int) -> int:
    """The `step` of `read_lines` with which at most about `most_lines` and `most_bytes` are read."""
    with path.open("rb") as file:
        lines = sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    return max(-(-lines // most_lines), -(-path.stat().st_size // most_bytes), 1)


def _row(line: bytes, json_lines: bool, faults: Faults, where: str, number: int) -> dict | None:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}"
        return faults.add("line-not-utf8", message, where, number)
    if not json_lines:
        return {"text": text}
    if not text.strip():
        return None
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at column {error.colno}"
        return faults.add("bad-line", message, where, number)
    except RecursionError:
        return faults.add("bad-line", "not JSON that can be read: nested too deeply", where, number)
    if not isinstance(row, dict):
        return faults.add("line-not-an-object", f"not a JSON object but {_kind(row)}", where, number)
    return row


def _kind(value) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
