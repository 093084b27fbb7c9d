"""Local files of rows, read so that a finding has a line or row number. No datasets, no torch.

A source is a file, a directory or a glob. A file is .jsonl, .json (a list, an object of columns, a list under
a key, or JSON lines), .csv, .txt, each also with .gz or .zst behind it, or .parquet.
"""

import codecs
import csv
import glob
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ..finding import Finding, Refusal, refuse
from ..record.file import LEDGER_FILE, LEFT_OUT, TRAIN
from ..record.weight_files import LFS_POINTER
from .config import Source
from .row_faults import Faults

# File ending -> its builder in `datasets`, for the files that it reads as we do (a .json if it is JSON lines).
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text"}
COMPRESSED = (".gz", ".zst")
PLAIN = (".jsonl", ".json", ".csv", ".txt")
ENDINGS = (*PLAIN, ".parquet", *(f"{plain}{packed}" for plain in PLAIN for packed in COMPRESSED))
# What reading a damaged file raises: gzip EOFError and zlib.error, arrow OSError and ValueError.
READ_ERRORS = (OSError, ValueError, EOFError, zlib.error, csv.Error)
_MAGIC = "*?["
_BOM = codecs.BOM_UTF8
_FIXES = {
    "bad-line": "correct or remove the line",
    "line-not-utf8": "save the file as UTF-8",
    "line-not-an-object": "write one JSON object per line",
}
# How a file begins that only looks like a bad .jsonl: what it is, and the fix.
_DISGUISES = (
    (b"\x1f\x8b", "is compressed by gzip", "name the file .jsonl.gz, which is read as it is"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", "name the file .jsonl.zst, which is read as it is"),
    (LFS_POINTER, "is a git-lfs pointer, not the data", "run `git lfs pull`"),
    (b"PAR1", "is a parquet file", "name the file .parquet"),
)


# Which files


def ending_of(path: str | Path) -> str:
    """`.jsonl.gz` of `rows.jsonl.gz`; empty if the file is of no type that is read."""
    suffixes = Path(path).suffixes[-2:]
    for ending in ("".join(suffixes), "".join(suffixes[-1:])):
        if ending in ENDINGS:
            return ending
    return ""


def plain_ending(path: str | Path) -> str:
    """`.jsonl` of `rows.jsonl.gz`."""
    ending = ending_of(path)
    return ending.removesuffix(".gz").removesuffix(".zst")


def check_local(path: str) -> bool:
    """Whether `path` names local files, else a Hub id. Raises Refusal unknown-file-type, missing-file."""
    if os.path.isdir(path) or is_glob(path):
        find_files(path)
        return True
    if not ending_of(path):
        if os.path.exists(path) or path.startswith((".", "/")):
            raise _unknown_type(path)
        return False
    if not os.path.isfile(path):  # Path.is_file raises on a name that is too long
        raise refuse("missing-file", "the file does not exist", "correct the path, or create the file", path)
    return True


def find_files(path: str) -> list[str]:
    """The files of a local source, in the order in which they are read: those of a directory by name.

    Raises Refusal missing-file, unknown-file-type.
    """
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, "dataset_info.json")):
            fix = "write it again with `to_parquet` and give that file"
            raise refuse("unknown-file-type", "a directory of `Dataset.save_to_disk`", fix, path)
        files = sorted(os.path.join(path, name) for name in os.listdir(path) if not name.startswith("."))
        found = [file for file in files if ending_of(file) and os.path.isfile(file)]
        if not found:
            raise _unknown_type(path)
        _refuse_curated(path, found)
        return found
    if not is_glob(path):
        _refuse_curated(path, [path])
        return [path]
    found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not found:
        raise refuse("missing-file", "no file matches this pattern", "correct the pattern", path)
    if others := [file for file in found if not ending_of(file)]:
        raise _unknown_type(others[0])
    _refuse_curated(path, found)
    return found


def _refuse_curated(path: str, files: list[str]) -> None:
    """Refuse a directory or pattern that takes the rows that curation left out for rows to train on."""
    for file in files:
        place, name = os.path.split(file)
        if name == LEFT_OUT and os.path.isfile(os.path.join(place, LEDGER_FILE)):
            message = f"{file} holds the rows that curation left out"
            raise refuse("unknown-file-type", message, f"give {os.path.join(place, TRAIN)}", path)


def plain_endings(path: str) -> set[str]:
    """{`.jsonl`, `.csv`} of the files of a local source; empty for one of the Hub. Raises as `check_local`."""
    return {plain_ending(file) for file in find_files(path)} if check_local(path) else set()


def is_glob(path: str) -> bool:
    """Whether the path is a pattern, and not the name of a file with such characters."""
    return any(c in path for c in _MAGIC) and not os.path.isfile(path)


def _unknown_type(path: str) -> Refusal:
    what = "no file in this directory" if os.path.isdir(path) else "this file does not"
    verb = "ends" if os.path.isdir(path) else "end"
    message = f"{what} {verb} in {', '.join((*PLAIN, '.parquet'))} or one of these and .gz or .zst"
    return refuse("unknown-file-type", message, "convert it, or name a file by its type", path)


# Opening


def open_bytes(path: str | Path) -> io.BufferedReader:
    """The file, decompressed, without a byte order mark."""
    ending = ending_of(path)
    if ending.endswith(".gz"):
        file = io.BufferedReader(gzip.open(path, "rb"))  # noqa: SIM115
    elif ending.endswith(".zst"):
        import pyarrow as pa

        file = io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    else:
        file = open(path, "rb")  # noqa: SIM115
    if file.peek(len(_BOM)).startswith(_BOM):
        file.read(len(_BOM))
    return file


def has_bom(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_BOM)) == _BOM


def require_text(path: Path) -> None:
    """Refuse an empty file and one that is not UTF-8; of a parquet file only the size is checked."""
    if path.suffix == ".parquet":
        if not path.stat().st_size:
            raise empty_file(str(path))
        return
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            _require_lines(path, file)
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


def unreadable_file(error: Exception, path: str) -> Refusal:
    cause = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
    return refuse(
        "unreadable-file",
        cause,
        "write or download the file again, or use one of another type, such as .jsonl",
        path,
    )


# Rows


def read_file(path: str, source: Source, step: int = 1) -> tuple[list[dict], list[int], bool, list[Finding]]:
    """(rows, their numbers from 1, whether these are line numbers, findings) of a local file.

    step: 1 for every row, 2 for every second row, and so on (see `row_step`). Raises Refusal unreadable-file.
    """
    try:
        if holds_lines(path, source):
            rows, numbers, findings = read_lines(Path(path), step)
            return rows, numbers, True, findings
        found = [(n, row) for n, row in enumerate(_rows_of(path, source), start=1) if n % step == 0]
        return [row for _, row in found], [n for n, _ in found], False, []
    except READ_ERRORS as error:
        raise unreadable_file(error, path) from error


def each_row(path: str, source: Source) -> Iterator[dict]:
    """The rows of a local file one by one, as `read_file` reads them; lines are not kept in memory.

    Raises Refusal with the findings of `read_lines` or unreadable-file.
    """
    try:
        if not holds_lines(path, source):
            yield from _rows_of(path, source)
            return
        faults = Faults("lines")
        for _, row in _each_line(Path(path), 1, faults):
            yield row
    except READ_ERRORS as error:
        raise unreadable_file(error, path) from error
    if findings := faults.findings(_FIXES):
        raise Refusal(*findings)


def each_entry(path: str, source: Source) -> Iterator[tuple[int, dict | None, tuple[str, str, bytes] | None]]:
    """(number from 1, row, None) of every row of a local file; (number, None, (code, message, line)) of a line that
    holds no row: for a reader that counts such lines where `each_row` refuses the file.

    Raises Refusal unreadable-file, and bad-line for a file that is certainly no JSON lines.
    """
    try:
        if not holds_lines(path, source):
            for number, row in enumerate(_rows_of(path, source), start=1):
                yield number, row, None
            return
        json_lines, faults = plain_ending(path) != ".txt", Faults("lines")
        with open_bytes(path) as file:
            if json_lines:
                _require_lines(Path(path), file)
            for number, line in enumerate(file, start=1):
                row = _row(line, json_lines, faults, path, number)
                if row is not None:
                    yield number, row, None
                elif faults.places:
                    code, place = faults.places.popitem()
                    yield number, None, (code, place.message, line)
    except READ_ERRORS as error:
        raise unreadable_file(error, path) from error


def holds_lines(path: str, source: Source) -> bool:
    """Whether every row of the file is one line, so that it is found by its line number."""
    plain = plain_ending(path)
    if plain == ".json" and not source.field:
        return _is_json_lines(path)
    return plain == ".jsonl" or (plain == ".txt" and source.text_by == "line")


def _is_json_lines(path: str) -> bool:
    """Whether a .json file is really a .jsonl: its first line is an object by itself, and not the only line."""
    with open_bytes(path) as file:
        first = next((line for line in file if line.strip()), b"")
        second = next((line for line in file if line.strip()), b"")
    try:
        return isinstance(json.loads(first), dict) and bool(second)
    except ValueError:
        return False


def _rows_of(path: str, source: Source) -> Iterator[dict]:
    """The rows of a file whose rows are not lines."""
    plain = plain_ending(path)
    if plain == ".parquet":
        yield from _parquet_rows(path)
    elif plain == ".json":
        yield from _document_rows(path, source.field)
    elif plain == ".csv":
        yield from _csv_rows(path)
    else:
        yield from _texts(path, source.text_by)


def _parquet_rows(path: str) -> Iterator[dict]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _document_rows(path: str, field: str | None) -> list[dict]:
    """The rows of one JSON document: a list of objects, an object of columns, or either under a key."""
    with open_bytes(path) as file:
        text = file.read().decode("utf-8")
    document, has_escapes = json.loads(text), _may_hold_half_pair(text)
    if field:
        if not isinstance(document, dict) or field not in document:
            keys = ", ".join(map(repr, document)) if isinstance(document, dict) else "no keys: it is a list"
            raise refuse("missing-column", f"no key {field!r}; it has {keys}", "correct `field:`", path)
        document = document[field]
    if isinstance(document, dict) and _holds_columns(document):
        rows = [dict(zip(document, cells, strict=True)) for cells in zip(*document.values(), strict=True)]
    else:
        rows = document if isinstance(document, list) else [document]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a .json file holds a list of objects, or one object per line")
    for number, row in enumerate(rows, start=1) if has_escapes else ():
        if half := half_pair(row):
            raise refuse("bad-line", half, _FIXES["bad-line"], f"{path}, row {number}")
    return rows


def _holds_columns(document: dict) -> bool:
    """Whether the object holds a list of cells per column; one row may hold lists, too, which are messages."""
    columns = list(document.values())
    if not columns or not all(isinstance(cells, list) and len(cells) == len(columns[0]) for cells in columns):
        return False
    return not any(isinstance(cell, dict) and {"role", "from"} & cell.keys() for cell in chain(*columns))


def _csv_rows(path: str) -> Iterator[dict]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, strict=True), start=1):
            if None in row or None in row.values():
                raise ValueError(f"row {number} has another number of cells than the header")
            yield row


def _texts(path: str, text_by: str) -> Iterator[dict]:
    """{text} of a .txt file: each paragraph (paragraphs are separated by blank lines), or the whole file."""
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8") as file:
        if text_by == "file":
            yield {"text": file.read()}
            return
        lines: list[str] = []
        for line in file:
            if line.strip():
                lines.append(line)
            elif lines:
                yield {"text": "".join(lines).rstrip("\n")}
                lines = []
        if lines:
            yield {"text": "".join(lines).rstrip("\n")}


# Lines


def find_bad_line(path: Path) -> None:
    """Raise for the lines of a text or JSON-lines file that cannot be read; else return."""
    findings = read_lines(path)[2]
    if findings:
        raise Refusal(*findings)


def read_lines(path: Path, step: int = 1) -> tuple[list[dict], list[int], list[Finding]]:
    """(rows, their line numbers, findings) of a .jsonl or .txt file; blank lines of a .jsonl hold no row.

    step: 1 for every line, 2 for every second line, and so on (see `row_step`).
    findings: bad-line (not JSON), line-not-utf8, line-not-an-object; one each, with every line number.
    """
    faults, rows, numbers = Faults("lines"), [], []
    for number, row in _each_line(path, step, faults):
        rows.append(row)
        numbers.append(number)
    return rows, numbers, faults.findings(_FIXES)


def _each_line(path: Path, step: int, faults: Faults) -> Iterator[tuple[int, dict]]:
    json_lines = plain_ending(path) != ".txt"
    with open_bytes(path) as file:
        if json_lines:
            _require_lines(path, file)
        for number, line in enumerate(file, start=1):
            if number % step:
                continue
            row = _row(line, json_lines, faults, f"{path}:{number}", number)
            if row is not None:
                yield number, row


def _require_lines(path: Path, file: io.BufferedReader) -> None:
    """Refuse, with what it is, a file that is certainly no JSON lines."""
    begin = file.peek(64)[:64]
    for magic, what, fix in _DISGUISES:
        if begin.startswith(magic):
            raise refuse("bad-line", f"not JSON: the file {what}", fix, f"{path}:1")
    if begin.split(b"\n")[0].strip() in (b"[", b"{") and b"\n" in begin:
        message = "not JSON: one JSON document over several lines, not one object per line"
        raise refuse(
            "bad-line", message, "name the file .json (of a list), or write one row per line", f"{path}:1"
        )


def blank_lines(path: Path) -> tuple[list[int], int]:
    """(numbers, from 1, of the lines without a row; number of all lines) of a .jsonl or .txt file."""
    number, blank, text = 0, [], plain_ending(path) == ".txt"
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if not text and line.isspace():
                blank.append(number)
    return blank, number


def row_step(paths: list[str], most_rows: int, most_bytes: int) -> int:
    """The `step` of `read_file` with which at most about `most_rows` and `most_bytes` of these files are read."""
    rows = size = 0
    for path in paths:
        if plain_ending(path) == ".parquet":
            rows += _parquet_length(path)
            continue
        if plain_ending(path) == ".json" and not _is_json_lines(path):
            continue  # it is parsed as a whole anyway
        with open_bytes(path) as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                rows += piece.count(b"\n")
                size += len(piece)
    return max(-(-rows // most_rows), -(-size // most_bytes), 1)


def _parquet_length(path: str) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


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
        message = f"not JSON: {error.msg.removesuffix(' starting at')} at column {error.colno}"
        return faults.add("bad-line", message, where, number)
    except RecursionError:
        return faults.add("bad-line", "not JSON that can be read: nested too deeply", where, number)
    if not isinstance(row, dict):
        return faults.add("line-not-an-object", f"not a JSON object but {_kind(row)}", where, number)
    if _may_hold_half_pair(text) and (half := half_pair(row)):
        return faults.add("bad-line", half, where, number)
    return row


def _may_hold_half_pair(text: str) -> bool:
    return "\\u" in text and ("\\ud" in text or "\\uD" in text)


def half_pair(value: Any) -> str:
    """What is wrong with a JSON value whose text cannot be encoded; empty if nothing."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        return f"not Unicode text: {half} is half of a surrogate pair"
    return ""


def _kind(value) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
