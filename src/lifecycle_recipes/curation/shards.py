"""The shards as the decision reads them: one at a time, with the scores of one step. No torch."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

from ..data.cache import cache_directory
from .reading import Read
from .rows import text_of
from .scores import Rows, read_rows, read_scores, score_file, texts_of
from .steps import StepOf

KEPT = 4  # shards in memory: those that a comparison of documents comes back to


class Corpus:
    """All shards of all sources, in order. Documents have numbers from 0."""

    def __init__(self, sources: Sequence[Read]):
        self.source_names = [read.name for read in sources]
        self.files = [read.directory / shard["file"] for read in sources for shard in read.shards]
        self.digests = [shard["sha256"] for read in sources for shard in read.shards]
        self.sizes = [shard["documents"] for read in sources for shard in read.shards]
        self.of_source = [i for i, read in enumerate(sources) for _ in read.shards]
        self.firsts = [0, *accumulate(self.sizes)]
        self.read = functools.lru_cache(maxsize=KEPT)(lambda index: read_rows(self.files[index]))

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
        return self.corpus.read(self.index)[0]

    @property
    def rows(self) -> Rows:
        return self.corpus.read(self.index)[1]

    @cached_property
    def texts(self) -> list[str]:
        return texts_of(self.rows, self.step.part)

    @cached_property
    def scores(self) -> Mapping[str, Sequence[Any]]:
        scores = cache_directory() / "curation" / "scores"
        return read_scores(score_file(scores, self.step, self.corpus.digests[self.index]))


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
        shard, index = self.corpus.locate(number)
        return text_of(self.corpus.read(shard)[1][index], self.step.part)

    def id(self, number: int) -> str:
        shard, index = self.corpus.locate(number)
        return self.corpus.read(shard)[0][index]
