"""The `data` section of a recipe. No torch."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

Format = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "hh"]


@dataclass
class Source:
    """Files or a Hub dataset; docs/data.md shows every format.

    path: a local file (.jsonl, .json, .csv, .txt, each also .gz or .zst, or .parquet), a directory of them or
    a glob (`data/*.jsonl.gz`), else the id of a dataset on the Hub.
    format: the shape of the rows. `messages`: the columns of the stage; the others are converted.
    name: the configuration of a Hub dataset. split, revision: as in `datasets.load_dataset`.
    max_rows: use a seeded random sample of this many rows.
    columns: column name of the format -> column name in the source (`messages: conversations`); an empty name
    leaves an optional column unread (`prompt: ""`).
    roles: role name in the source -> user, assistant, system or tool (`User: user`).
    system: the system message of every conversation that has none.
    field: the key of a .json file that holds the rows.
    text_by: what one row of a .txt file is.
    weight: share of the training tokens (of the bytes, for a tokenizer), relative to the weights of the other
    sources (3 and 1: three quarters come from the first). Either all sources have one or none.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    max_rows: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    format: Format = "messages"
    roles: dict[str, str] = field(default_factory=dict)
    system: str | None = None
    field: str | None = None
    text_by: Literal["line", "paragraph", "file"] = "line"
    weight: float | None = None


def as_source(values: dict[str, Any]) -> Source:
    """A source of a recipe, without the keys that only curation reads."""
    return Source(**{f.name: values[f.name] for f in fields(Source) if f.name in values})


@dataclass
class DataConfig:
    """Rows to train on and rows to evaluate on.

    sources, eval_sources: concatenated in the order given, or mixed by their weights. Held-out rows either
    come from `eval_sources` or are split from the sources by `eval_fraction`, the same on every rank.
    seed: of that split, of `max_rows` and of the mix.
    max_repetition: how often the weights may repeat a source. At 1 no row is repeated: the source that is
    scarcest for its weight is used once, whole, and rows of the others are left out.
    truncation: what happens to a row of sft, dpo or kto that train.max_length would truncate: `cut`
    (upstream's way; the row loses its end), or `drop` (the row is left out and counted).
    """

    sources: list[Source]
    eval_sources: list[Source] = field(default_factory=list)
    eval_fraction: float = 0.0
    seed: int = 42
    truncation: Literal["cut", "drop"] = "cut"
    max_repetition: float = 1.0


# Columns that a stage reads from its rows: required and optional ones.
_COLUMNS = {
    "sft": (["messages"], ["tools"]),
    "reward": (["chosen", "rejected"], ["prompt", "tools"]),
    "dpo": (["chosen", "rejected"], ["prompt", "tools"]),
    "kto": (["prompt", "completion", "label"], ["tools"]),
    "ppo": (["prompt"], []),
}
LANGUAGE = "language"
# The setting that names the text column of a stage that reads plain text.
_TEXT_COLUMN = {"pretrain": ("text", "column"), "tokenizer": ("tokenizer", "text_column")}


# The stage that reads what curation writes, by `curate.kind`: it decides which columns a row has.
READERS = {"text": "pretrain", "messages": "sft", "pairs": "dpo", "thumbs": "kto", "prompts": "ppo"}


def stage_columns(stage: str, values: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(required, optional) columns of a stage, both empty if it reads no rows. values: `RawRecipe.values`."""
    if stage == "curate":
        kind = (values.get("curate") or {}).get("kind", "text")
        return stage_columns(READERS[kind], {})
    if stage in _TEXT_COLUMN:
        section, key = _TEXT_COLUMN[stage]
        # A sweep is measured per language where the rows name theirs.
        optional = [LANGUAGE] if values.get(section, {}).get("sweep") else []
        return [values.get(section, {}).get(key, "text")], optional
    required, optional = _COLUMNS.get(stage, ([], []))
    return list(required), list(optional)


@dataclass
class TextConfig:
    """block_size: tokens per row. column: the column that holds the text.

    packing: `bfd` fills blocks with whole documents (best fit first; longer ones are split); with `none`,
    every document, or piece of one, has a separate row.
    """

    block_size: int
    column: str = "text"
    packing: Literal["bfd", "none"] = "bfd"
