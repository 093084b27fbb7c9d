"""The output files: train.jsonl in a seeded order, held_out.jsonl, and the rest of left_out.jsonl. No torch."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record.file import HELD_OUT, LEFT_OUT, TRAIN
from ..record.parents import hash_file
from .decide import edited, read_edits, write_left_out
from .documents import Verdict
from .measures import Languages
from .mixing import OVER
from .shards import Corpus

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

BUCKET = 64 << 20  # bytes that are shuffled in memory
LANGUAGE = "language"  # the column that the step of this name adds to text
WRITTEN = ("id", "source")  # the columns that are added to every row


def written_rows(
    corpus: Corpus, directory: Path, wanted: np.ndarray
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, id, row with its edits) of every document that `wanted` is true for, in order."""
    changes = read_edits(directory)
    number_edited, edits = next(changes, (-1, []))
    for shard, first in enumerate(corpus.firsts[:-1]):
        end = corpus.firsts[shard + 1]
        rows, ids = corpus.rows(shard), None
        while -1 < number_edited < first:
            number_edited, edits = next(changes, (-1, []))
        for number in range(first, end):
            own = edits if number == number_edited else None
            if own is not None:
                number_edited, edits = next(changes, (-1, []))
            if wanted[number]:
                ids = ids or corpus.ids(shard)
                row = rows[number - first]
                yield number, ids[number - first], edited(row, own) if own else row


def write(
    corpus: Corpus,
    directory: Path,
    times: np.ndarray,
    held_out: np.ndarray,
    alive: np.ndarray,
    languages: Languages | None,
    seed: int,
    bar: tqdm,
) -> dict[str, dict[str, Any]]:
    """Write the files into `directory`; returns {name: {rows, sha256}} for the ledger.

    times: how often each document is in train.jsonl. held_out, alive: whether it is held out, left by the steps.
    languages: of every document, if a step found them. Memory holds one bucket of the shuffle.
    """
    import numpy as np

    buckets = directory / "buckets"
    shutil.rmtree(buckets, ignore_errors=True)
    buckets.mkdir()
    random = np.random.default_rng([seed, 1])
    size = sum(file.stat().st_size for file in corpus.files)
    count = 1 + 8 * size // BUCKET  # the shards are compressed
    rows: Counter[str] = Counter()
    waiting: dict[int, list[bytes]] = defaultdict(list)
    held = 0  # bytes of them
    with (
        (directory / HELD_OUT).open("w", encoding="utf-8") as aside,
        (directory / LEFT_OUT).open("a", encoding="utf-8") as side,
    ):
        for number, id, row in written_rows(corpus, directory, alive):
            bar.update()
            source = corpus.source_names[corpus.of_source[corpus.locate(number)[0]]]
            line = row | {"id": id, "source": source}
            line |= {LANGUAGE: languages[number]} if languages else {}
            text = json.dumps(line, ensure_ascii=False) + "\n"
            if held_out[number]:
                aside.write(text)
                rows[HELD_OUT] += 1
            elif not times[number]:
                write_left_out(side, id, source, OVER, Verdict((OVER,)), row)
            for bucket in random.integers(count, size=int(times[number])).tolist():
                waiting[bucket].append(text.encode())
                held += len(waiting[bucket][-1])
                rows[TRAIN] += 1
            if held >= BUCKET:
                _empty(waiting, buckets)
                held = 0
    _empty(waiting, buckets)
    with (directory / TRAIN).open("wb") as out:
        for i in range(count):
            file = buckets / str(i)
            lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
            out.writelines(lines[j] for j in np.random.default_rng([seed, 2, i]).permutation(len(lines)))
    shutil.rmtree(buckets)
    if not rows[HELD_OUT]:
        (directory / HELD_OUT).unlink()
    return {name: {"rows": n, "sha256": hash_file(directory / name)} for name, n in sorted(rows.items()) if n}


def _empty(waiting: dict[int, list[bytes]], buckets: Path) -> None:
    """Append the waiting lines to their files, of which one is open at a time: there may be thousands."""
    for bucket, lines in waiting.items():
        with (buckets / str(bucket)).open("ab") as file:
            file.writelines(lines)
    waiting.clear()
