"""The `data` section of a recipe. No torch."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Source:
    """One place that rows come from.

    path: a local .jsonl, .json, .parquet or .txt file, else the id of a dataset on the Hub.
    name: the configuration of a Hub dataset. split, revision: as in `datasets.load_dataset`.
    max_rows: take a seeded sample of this many rows, not the head of the file.
    columns: what a column is called there, by the name it has here (`messages: conversations`); an empty
    name leaves an optional column unread (`prompt: ""`).
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    max_rows: int | None = None
    columns: dict[str, str] = field(default_factory=dict)


@dataclass
class DataConfig:
    """Rows to train on and rows to measure on.

    sources, eval_sources: concatenated in the order given. Held-out rows are either named in
    `eval_sources` or split from the sources by `eval_fraction`, the same on every rank. seed: of that
    split and of `max_rows`.
    """

    sources: list[Source]
    eval_sources: list[Source] = field(default_factory=list)
    eval_fraction: float = 0.0
    seed: int = 42


# Columns that a stage reads from its rows: those it needs, and those it uses where they are given.
_COLUMNS = {
    "sft": (["messages"], ["tools"]),
    "reward": (["chosen", "rejected"], ["prompt", "tools"]),
    "dpo": (["chosen", "rejected"], ["prompt", "tools"]),
    "kto": (["prompt", "completion", "label"], ["tools"]),
    "ppo": (["prompt"], []),
}
# Where a stage that reads plain text is told which column holds it.
_TEXT_COLUMN = {"pretrain": ("text", "column"), "tokenizer": ("tokenizer", "text_column")}


def stage_columns(stage: str, values: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(required, optional) columns of a stage, both empty if it reads none; values: `RawRecipe.values`."""
    if stage in _TEXT_COLUMN:
        section, key = _TEXT_COLUMN[stage]
        return [values.get(section, {}).get(key, "text")], []
    required, optional = _COLUMNS.get(stage, ([], []))
    return list(required), list(optional)


@dataclass
class TextConfig:
    """block_size: tokens per row. column: the column that holds the text.

    packing: `bfd` fills blocks with whole documents (best fit first; longer ones are cut); `none` gives
    every document, or piece of one, a row of its own.
    """

    block_size: int
    column: str = "text"
    packing: Literal["bfd", "none"] = "bfd"
