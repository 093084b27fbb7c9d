"""The shards as the decision reads them: one at a time, with the scores of one step. No torch."""

from __future__ import annotations

import functools
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ..data.cache import cache_directory
from .reading import Read
from .rows import text_of
from .scores import Scores, read_table, score_file
from .steps import StepOf

if TYPE_CHECKING:
    import pyarrow as pa

KEPT = 4  # shards in memory: those that a comparison of documents comes back to
KEPT_IDS = 64  # shards of which the ids are in memory, of about 100 kB each


class Lazy(Sequence):
    """A sequence whose items are made each time they are asked for: most are never."""

    def __init__(self, length: int, get: Callable[[int], Any]):
        self._length, self._get = length, get

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._get(index % self._length)


class Corpus:
    """All shards of all sources, in order. Documents have numbers from 0."""

    def __init__(self, sources: Sequence[Read]):
        self.source_names = [read.name for read in sources]
        self.files = [read.directory / shard["file"] for read in sources for shard in read.shards]
        self.digests = [shard["sha256"] for read in sources for shard in read.shards]
        self.sizes = [shard["documents"] for read in sources for shard in read.shards]
        self.of_source = [i for i, read in enumerate(sources) for _ in read.shards]
        self.firsts = [0, *accumulate(self.sizes)]
        self._cells = functools.lru_cache(maxsize=KEPT)(self._read_cells)
        self.ids = functools.lru_cache(maxsize=KEPT_IDS)(self._read_ids)

    def _read_cells(self, index: int) -> pa.StringArray:
        return read_table(self.files[index], ["row"])["row"].combine_chunks()

    def _read_ids(self, index: int) -> list[str]:
        return read_table(self.files[index], ["id"])["id"].to_pylist()

    def row(self, index: int, i: int) -> dict[str, Any]:
        """Row i of a shard, as it was read; parsed each time."""
        return json.loads(self._cells(index)[i].as_py())

    def rows(self, index: int) -> Lazy:
        """The rows of a shard. Those of the last few shards stay in memory, unparsed."""
        return Lazy(self.sizes[index], functools.partial(self.row, index))

    def __len__(self) -> int:
        return self.firsts[-1]

    def locate(self, number: int) -> tuple[int, int]:
        """(shard, index in it) of a document."""
        shard = bisect_right(self.firsts, number) - 1
        return shard, number - self.firsts[shard]

    def scored(self, step: StepOf) -> StepShards:
        return StepShards(self, step)


class StepShard:
    """One shard, with the scores of one step; see documents.Shard."""

    def __init__(self, corpus: Corpus, step: StepOf, index: int):
        self.corpus, self.step, self.index = corpus, step, index
        self.first = corpus.firsts[index]
        self.sources = [corpus.of_source[index]] * corpus.sizes[index]

    def __len__(self) -> int:
        return self.corpus.sizes[self.index]

    @property
    def ids(self) -> Sequence[str]:
        return self.corpus.ids(self.index)

    @property
    def rows(self) -> Lazy:
        return self.corpus.rows(self.index)

    @property
    def texts(self) -> Lazy:
        rows, part = self.rows, self.step.part
        return Lazy(len(self), lambda i: text_of(rows[i], part))

    @cached_property
    def scores(self) -> Mapping[str, Sequence[Any]]:
        scores = cache_directory() / "curation" / "scores"
        return Scores(score_file(scores, self.step, self.corpus.digests[self.index]))


class StepShards:
    """All shards, with the scores of one step; see documents.Shards."""

    def __init__(self, corpus: Corpus, step: StepOf):
        self.corpus, self.step = corpus, step
        self.source_names = corpus.source_names

    def __iter__(self) -> Iterator[StepShard]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> StepShard:
        return StepShard(self.corpus, self.step, index)

    def __len__(self) -> int:
        return len(self.corpus.files)

    def text(self, number: int) -> str:
        return text_of(self.row(number), self.step.part)

    def row(self, number: int) -> dict[str, Any]:
        return self.corpus.row(*self.corpus.locate(number))

    def id(self, number: int) -> str:
        shard, index = self.corpus.locate(number)
        return self.corpus.ids(shard)[index]
