"""The `data` and `curate` sections of a curate recipe. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.config import Source
from .decontamination import Decontamination
from .exact_duplicates import ExactDuplicates
from .executors import Executor
from .language import Language
from .near_duplicates import NearDuplicates
from .perplexity import Perplexity
from .personal_data import PersonalData
from .preferences import Preferences
from .quality import Quality
from .safety import Safety

Kind = Literal["text", "messages", "pairs", "thumbs", "prompts"]


@dataclass
class CurateSource(Source):
    """A source of the raw rows: files or a Hub dataset, which is streamed.

    license: of its rows, such as `cc-by-4.0`; it is written into the ledger. weight: share of the tokens, relative to
    the weights of the other sources. max_tokens: at most so many tokens of it are used. passes: how often its
    documents are used, at most with a weight, exactly without one; 0.5 is every second document.
    """

    license: str | None = None
    max_tokens: int | None = None
    passes: float | None = None


@dataclass
class CurateData:
    """The raw rows.

    sources: what is curated; the copy that stays of a duplicate is the one of the earlier source. seed: of `max_rows`,
    the mixture, its order and the held-out documents. max_repetition: how often the weights may repeat the documents
    of a source that has no `passes`.
    """

    sources: list[CurateSource]
    seed: int = 42
    max_repetition: float = 1.0


@dataclass
class Step:
    """One step; exactly one of the keys is set, `{}` for its defaults."""

    exact_duplicates: ExactDuplicates | None = None
    near_duplicates: NearDuplicates | None = None
    language: Language | None = None
    quality: Quality | None = None
    perplexity: Perplexity | None = None
    personal_data: PersonalData | None = None
    safety: Safety | None = None
    decontamination: Decontamination | None = None
    preferences: Preferences | None = None


@dataclass
class HeldOut:
    """Documents that are not trained on. A group, and what resembles it, is never on both sides.

    fraction: of the documents. group_by: `file`, or a column of `keep`, whose equal values are one group (chunks of
    one document); without it, every document is its own group. similarity: a held-out document with this Jaccard
    similarity (from 0.5) of its word 3-grams, or more, to a training document is moved to the training documents.
    """

    fraction: float
    group_by: str | None = None
    similarity: float = 0.8


@dataclass
class CurateConfig:
    """What is written, and by which steps.

    output_dir: for train.jsonl, held_out.jsonl, left_out.jsonl, edits.jsonl, ledger.json and run.json. kind: of the
    rows that are read and written: text, or the rows of sft (messages), dpo and reward (pairs), kto (thumbs), ppo
    (prompts). steps: in order; a document is left out by the first step that has a reason. tokenizer: counts the
    tokens (a directory or Hub id); without one, words and punctuation marks are counted. tokens: of the mixture;
    without it, as many as there are. keep: columns of the sources that are written beside the text. max_characters:
    longer rows are left out. held_out: documents that are not trained on. tests: lines as those of a gate, on the
    metrics of the mixture; if one fails, no train.jsonl is written, and the exit
    status is 3.
    """

    output_dir: str
    kind: Kind = "text"
    steps: list[Step] = field(default_factory=list)
    tokenizer: str | None = None
    tokens: int | None = None
    keep: list[str] = field(default_factory=list)
    max_characters: int = 10_000_000
    held_out: HeldOut | None = None
    tests: list[str] = field(default_factory=list)
    executor: Executor = field(default_factory=Executor)


def step_names(values: dict[str, Any]) -> list[str]:
    """The names of a recipe's steps, in order. values: of the recipe, with checked keys."""
    steps = (values.get("curate") or {}).get("steps") or []
    return [name for step in steps for name, settings in step.items() if settings is not None]
