"""What the steps of curation read and return.

A document is one row of a source: a text, or a conversation, pair or prompt with its texts. The sources are cut
into shards of a few thousand documents, always at the same rows. The steps work in two phases:

1. `score`: each step computes the scores of every document of a shard, in any process and in any order, and they
   are cached by the content of the shard, the settings they depend on, and the versions of the packages.
2. `decide`: one process passes over all shards in order and decides, from the scores, what each step leaves out or
   edits. A changed threshold repeats this phase alone.

A step is a module of this room with

- a dataclass of its settings, which is its section in a recipe;
- SCORED: the names of the settings on which the scores depend (the others are thresholds of the decision);
- PACKAGES: the distributions whose versions join the key of the scores;
- `score(texts, settings)`: {column: one value per text}, of values that Arrow can store; a pure function;
- `decider(settings, shards)`: a function `decide(shard, alive)`, called once per shard, in order.

A step that compares documents (duplicates, percentiles) looks at all shards in `decider`, and keeps what it has to
remember between the calls of `decide` in that function's closure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

# Which text of a document a step looks at: all of it, or of a conversation only the prompt or the reply.
Part = Literal["row", "prompt", "reply"]


@dataclass(frozen=True)
class Edit:
    """Replace the characters [start, end) of a document's text by `text`. kind: what was there, for the audit."""

    start: int
    end: int
    text: str
    kind: str


@dataclass(frozen=True)
class Verdict:
    """What a step decides about one document.

    reasons: why it is left out; empty if it stays. The first one counts in the ledger, all of them in the table
    of rules. detail: what the audit row says besides, such as {"kept": id, "jaccard": 0.91}; JSON values.
    edits: of a document that stays, in order and without overlap, in characters of the step's part of it.
    """

    reasons: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()


class Shard(Protocol):
    """Consecutive documents, as a step sees them in `decide`.

    first: the number of its first document, counted from 0 over all shards. sources: the index of the source of
    each document. ids: where each one comes from, such as `wiki.jsonl:17`. scores: the columns that `score` made.
    texts: the step's part of each document, before any edit; rows: all of it, as it was read. Both are read from
    disk on first use.
    """

    first: int
    sources: Sequence[int]
    ids: Sequence[str]
    scores: Mapping[str, Sequence[Any]]

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]: ...

    def __len__(self) -> int: ...


class Shards(Protocol):
    """All shards, in order: can be iterated several times, and reads one shard at a time.

    source_names: of every source, by its index. text: the step's part of a document by its number; row: all of it.
    """

    source_names: Sequence[str]

    def __iter__(self) -> Iterator[Shard]: ...

    def __len__(self) -> int: ...

    def text(self, number: int) -> str: ...

    def row(self, number: int) -> Mapping[str, Any]: ...

    def id(self, number: int) -> str: ...


# alive: whether each document of the shard is left by the steps before. Returns {index in the shard: verdict},
# of documents that are alive only; a document without a verdict stays as it is.
Decide = Callable[[Shard, Sequence[bool]], dict[int, Verdict]]
