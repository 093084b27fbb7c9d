"""Sources -> shards of documents on disk. Every row of a source becomes a document, or is left out with a reason.

<cache>/curation/sources/<key>/ holds shard-*.parquet, left_out.jsonl and manifest.json, which is written last. The
key is a hash of the files, of the options that change rows, and of this code; so what was read is not read again. No
torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.cache import cache_directory
from ..data.config import READERS, Source, stage_columns
from ..data.formats import converter, format_columns, name_map
from ..data.row_faults import FAULT, row_fault
from ..data.row_files import check_local, each_entry, find_files
from ..data.scratch import scratch_directory
from ..data.sources import OPTIONS
from ..finding import refuse
from ..record.file import LEFT_OUT, write_json
from ..record.parents import hash_file
from .config import CurateConfig, CurateSource
from .rows import strings

if TYPE_CHECKING:
    from tqdm import tqdm

# A shard is the unit of work of a process and of memory: a few seconds of scoring. Larger ones would leave processes
# without work at the end.
DOCUMENTS, BYTES = 2048, 4 << 20
MANIFEST = "manifest.json"
COMMIT = 40  # characters of a commit id, which names the rows of a Hub dataset for good


@dataclass(frozen=True)
class Read:
    """A source that was read. directory: of its shards. shards: [{file, sha256, documents, bytes}].

    rows: of the source. left_out: reason -> [rows, bytes] of what became no document.
    """

    name: str
    directory: Path
    shards: list[dict[str, Any]]
    rows: int
    left_out: dict[str, list[int]]


def source_names(sources: list[CurateSource]) -> list[str]:
    """A name per source: its path, with the split or a number where two have the same path."""
    names = [s.path if s.split == "train" else f"{s.path}:{s.split}" for s in sources]
    again = Counter(names)
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        if again[name] > 1:
            seen[name] += 1
            names[i] = f"{name}#{seen[name]}"
    return names


def read_source(source: CurateSource, name: str, config: CurateConfig, bar: tqdm) -> Read:
    """The shards of a source, from the cache or read now. Raises Refusal.

    Unlike in training, a row with a fault refuses nothing: it is left out, with its fault as the reason.
    """
    required, optional = stage_columns(READERS[config.kind], {})
    format_columns(source, required, optional)
    entry = cache_directory() / "curation" / "sources" / _key(source, config)
    if not (entry / MANIFEST).is_file():
        entry.parent.mkdir(parents=True, exist_ok=True)
        place = scratch_directory(entry.parent, "reading")
        fresh = place / "entry"
        try:
            fresh.mkdir()
            write_json(fresh / MANIFEST, _write_shards(fresh, _documents(source, config, bar), config))
            os.rename(fresh, entry)
        except OSError:
            if not (entry / MANIFEST).is_file():  # else another process has made it
                raise
        finally:  # also on a full disk, which it may have filled
            shutil.rmtree(place, ignore_errors=True)
    manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
    if not manifest["rows"]:
        raise refuse(
            "no-rows", "the source has no rows", "correct the path, or remove the source", source.path
        )
    return Read(name, entry, manifest["shards"], manifest["rows"], manifest["left_out"])


def _key(source: CurateSource, config: CurateConfig) -> str:
    """What determines the documents of a source."""
    parts: list[Any] = [config.kind, config.keep, config.max_characters, DOCUMENTS, BYTES, _code()]
    parts += [[option, getattr(source, option)] for option in OPTIONS]
    if check_local(source.path):
        parts += [[file, hash_file(file)] for file in find_files(source.path)]
    else:
        # Without a commit, the rows behind a name may change: they are read anew by every process.
        fixed = source.revision and len(source.revision) == COMMIT
        parts += [source.path, source.name, source.split, source.revision if fixed else os.urandom(8).hex()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _code() -> str:
    """What turns the rows of a file into documents: a hash of our code, and the versions of the readers."""
    digest = hashlib.sha256()
    ours = Path(__file__).parent
    data = ours.parent / "data"
    of_data = [data / name for name in ("config.py", "formats.py", "sources.py")]
    for file in (ours / "reading.py", ours / "rows.py", *sorted(data.glob("row_*.py")), *of_data):
        digest.update(file.read_bytes())
    return digest.hexdigest() + version("pyarrow") + version("datasets")


# One row at a time

Entry = tuple[str, dict | None, tuple[str, str, str] | None]


def _documents(source: CurateSource, config: CurateConfig, bar: tqdm) -> Iterator[Entry]:
    """(id, row, None) of every document, (id, None, (reason, message, text)) of every row that becomes none."""
    required, optional = stage_columns(READERS[config.kind], {})
    theirs = name_map(source, required, optional)
    convert = converter(source, required)
    for place, row, fault in _rows(source):
        bar.update()
        if row is None:
            code, message, line = fault
            yield place, None, (code, message, line.decode("utf-8", "replace").rstrip("\n"))
            continue
        given = {ours: row[name] for ours, name in theirs.items() if name in row}
        if (
            config.kind == "text"
            and source.format == Source.format
            and (name := theirs.get("text", "text")) not in row
        ):
            message = f"no column {name!r}; the row has {', '.join(map(repr, list(row)[:6]))}"
            yield place, None, ("missing-column", message, json.dumps(row, ensure_ascii=False, default=str))
            continue
        found = convert(given)
        if problem := row_fault(found if found.get(FAULT) else {c: found.get(c) for c in required}, required):
            yield place, None, (*problem, json.dumps(row, ensure_ascii=False, default=str))
            continue
        found = {c: found[c] for c in (*required, *optional) if found.get(c) is not None}
        size = sum(len(holder[key]) for holder, key in strings(found, "row"))
        if size > config.max_characters:
            message = f"{size:,} characters, more than curate.max_characters"
            yield place, None, ("too-long", message, json.dumps(found, ensure_ascii=False))
            continue
        kept = {c: _storable(row.get(c)) for c in config.keep if c not in found}
        yield place, found | {c: value for c, value in kept.items() if value is not None}, None


def _storable(value: Any) -> Any:
    """A value of a kept column that JSON can store: of a date and the like its text, for NaN null."""
    if isinstance(value, dict):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _rows(source: CurateSource) -> Iterator[tuple[str, dict | None, tuple | None]]:
    """(place, row, fault) of every row, as `each_entry`; the place is `file:number`."""
    if not check_local(source.path):
        for number, row in enumerate(_stream(source), start=1):
            yield f"{source.path}:{source.split}:{number}", row, None
        return
    for file in find_files(source.path):
        for number, row, fault in each_entry(file, source):
            yield f"{file}:{number}", row, fault


def _stream(source: CurateSource) -> Iterator[dict]:
    """The rows of a Hub dataset, without downloading all of it first. Raises Refusal unreadable-source."""
    from datasets import load_dataset

    try:
        yield from load_dataset(
            source.path, source.name, split=source.split, revision=source.revision, streaming=True
        )
    except Exception as error:  # offline, gated, no such split: upstream's message has the cause
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        message, fix = f"reading rows from the Hub failed: {cause}", "check the id, the split and the network"
        raise refuse("unreadable-source", message, fix, source.path) from error


# Shards


def _write_shards(directory: Path, entries: Iterator[Entry], config: CurateConfig) -> dict[str, Any]:
    """Write the shards and left_out.jsonl; return the manifest."""
    shards, left_out, rows = [], {}, 0
    ids: list[str] = []
    cells: list[str] = []
    size = 0

    def close() -> None:
        nonlocal size
        if ids:
            shards.append(_write_shard(directory / f"shard-{len(shards):05}.parquet", ids, cells, size))
            ids.clear()
            cells.clear()
            size = 0

    with (directory / LEFT_OUT).open("w", encoding="utf-8") as side:
        for place, row, fault in entries:
            rows += 1
            if row is None:
                reason, message, text = fault
                count = left_out.setdefault(reason, [0, 0])
                count[0] += 1
                count[1] += len(text.encode("utf-8", "replace"))
                line = {"id": place, "reason": reason, "detail": {"message": message}, "text": text}
                side.write(json.dumps(line, ensure_ascii=False) + "\n")
                continue
            cell = json.dumps(row, ensure_ascii=False, default=str)  # Parquet has dates and decimals
            ids.append(place)
            cells.append(cell)
            size += len(cell.encode())
            if len(ids) == DOCUMENTS or size >= BYTES:
                close()
        close()
    return {"shards": shards, "rows": rows, "left_out": left_out}


def _write_shard(file: Path, ids: list[str], cells: list[str], size: int) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Rows differ, and nobody looks for one by its value.
    options = {"use_dictionary": ["id"], "write_statistics": False}
    pq.write_table(pa.table({"id": ids, "row": cells}), file, compression="zstd", **options)
    digest = hashlib.sha256("\n".join(cells).encode()).hexdigest()
    return {"file": file.name, "sha256": digest, "documents": len(ids), "bytes": size}
