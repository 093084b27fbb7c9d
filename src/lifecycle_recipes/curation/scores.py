"""The scores of every shard: computed by processes anywhere, kept in files, read by the decision. No torch.

<cache>/curation/scores/<key>.parquet holds the columns of one step for one shard. A plan is a JSON file that tells
a process all that it needs: so the processes may be on other machines that share the cache's file system.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.cache import cache_directory
from ..data.scratch import scratch_directory
from .documents import Part
from .reading import Read
from .rows import BETWEEN, text_of
from .steps import StepOf

if TYPE_CHECKING:
    import pyarrow as pa

Rows = list[dict[str, Any]]


def write_plan(sources: list[Read], steps: list[StepOf]) -> Path:
    """The plan that scores `steps` on the shards of `sources`; the same plan has the same file."""
    root = cache_directory() / "curation"
    plan = {
        "shards": [[str(read.directory / s["file"]), s["sha256"]] for read in sources for s in read.shards],
        "steps": [asdict(step) for step in steps],
        "scores": str(root / "scores"),
    }
    text = json.dumps(plan)
    file = root / "plans" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    for directory in (file.parent, root / "scores"):
        directory.mkdir(parents=True, exist_ok=True)
    _write_whole(root, file, lambda place: place.write_text(text, encoding="utf-8"))
    return file


def score_shards(plan_file: str | Path, indices: Sequence[int]) -> None:
    """Score the shards with these numbers; what is there already is left as it is."""
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    steps = [StepOf(**step) for step in plan["steps"]]
    for index in indices:
        path, digest = plan["shards"][index]
        missing = [s for s in steps if not score_file(plan["scores"], s, digest).exists()]
        if not missing:
            continue
        rows = read_rows(path)[1]
        for step in missing:
            columns = step.module.score(_inputs(step, rows), step.settings)
            file = score_file(plan["scores"], step, digest)
            _write_whole(Path(plan["scores"]), file, lambda place, c=columns: _write(place, c))


def unscored(plan_file: Path) -> list[int]:
    """The numbers of the shards of which scores are missing."""
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    steps = [StepOf(**step) for step in plan["steps"]]
    return [
        i
        for i, (_, digest) in enumerate(plan["shards"])
        if not all(score_file(plan["scores"], step, digest).exists() for step in steps)
    ]


def score_file(scores: str | Path, step: StepOf, digest: str) -> Path:
    name = hashlib.sha256(f"{step.key}{digest}".encode()).hexdigest()
    return Path(scores) / name[:2] / f"{name}.parquet"


def _inputs(step: StepOf, rows: Rows) -> list:
    """What `score` of a step reads: the texts of its part of the rows, these with the label of a thumb, or the rows."""
    reads = getattr(step.module, "READS", "texts")
    if reads == "rows":
        return rows
    texts = texts_of(rows, step.part)
    if reads == "labelled texts" and step.part != "prompt":
        return [
            f"{text}{BETWEEN}{row['label']}" if "completion" in row else text
            for text, row in zip(texts, rows, strict=True)
        ]
    return texts


def texts_of(rows: Rows, part: Part) -> list[str]:
    return [text_of(row, part) for row in rows]


def read_rows(shard: str | Path) -> tuple[list[str], Rows]:
    """(ids, rows) of a shard."""
    table = read_table(shard)
    return table["id"].to_pylist(), [json.loads(row) for row in table["row"].to_pylist()]


def read_table(file: str | Path, columns: list[str] | None = None) -> pa.Table:
    import pyarrow.parquet as pq

    # `pq.read_table` takes several milliseconds longer per file: it looks for a data set of many files.
    with pq.ParquetFile(file) as parquet:
        return parquet.read(columns, use_threads=False)


class Scores(Mapping[str, list]):
    """The columns of one step for one shard; a column becomes a list on first use, for few are used."""

    def __init__(self, file: Path):
        self.table = read_table(file)
        self._lists: dict[str, list] = {}

    def __getitem__(self, name: str) -> list:
        if name not in self._lists:
            self._lists[name] = _to_list(self.table[name])
        return self._lists[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.column_names)

    def __len__(self) -> int:
        return self.table.num_columns


def _to_list(column: pa.ChunkedArray) -> list:
    """`column.to_pylist()`; of lists, all values at once, which is many times faster than list by list."""
    import pyarrow.types as types

    if not (types.is_list(column.type) and column.null_count == 0):
        return column.to_pylist()
    found: list = []
    for chunk in column.chunks:
        values, ends = chunk.flatten().to_pylist(), chunk.value_lengths().to_pylist()
        start = 0
        for size in ends:
            found.append(values[start : start + size])
            start += size
    return found


def _write(file: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), file, compression="zstd")


def _write_whole(root: Path, file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file elsewhere below `root` and rename it: it is never in its place in part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = _workplace(root) / file.name
    try:
        write(temporary)
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_workplaces: dict[tuple[int, Path], Path] = {}


def _workplace(root: Path) -> Path:
    """The directory below `root` of what this process has not finished; the next process removes it after a kill."""
    name = os.getpid(), root
    if name not in _workplaces or not _workplaces[name].is_dir():
        _workplaces[name] = scratch_directory(root, "writing")
    return _workplaces[name]
