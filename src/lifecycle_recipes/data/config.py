"""The `data` section of a recipe. No torch."""

from dataclasses import dataclass, field


@dataclass
class Source:
    """One place that rows come from.

    path: a local .jsonl, .json, .parquet or .txt file, else the id of a dataset on the Hub.
    name: the configuration of a Hub dataset. split, revision: as in `datasets.load_dataset`.
    max_rows: take a seeded sample of this many rows, not the head of the file.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    max_rows: int | None = None


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
