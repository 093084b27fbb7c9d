"""What is measured of the mixture: the metrics of the record, for `tests:` and gates. No torch."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .decide import Decided
from .ledger import Books
from .shards import Corpus, StepShard
from .steps import StepOf

if TYPE_CHECKING:
    import numpy as np

SHARE = "share."  # followed by a language: the metric of its share


def measure(
    corpus: Corpus,
    steps: list[StepOf],
    decided: Decided,
    times: np.ndarray,
    held_out: np.ndarray,
    books: list[Books],
) -> tuple[dict[str, float], list[str] | None]:
    """(metrics, the language of every document if a step found it).

    rows_in, rows_out, tokens_out, bytes_out, held_out_rows; left_out.<step>: share of the rows that came to it;
    share.<language>: of the tokens of the mixture; <step>.mean_<score>: over the documents of the mixture.
    """
    total = max(int((times * decided.tokens).sum()), 1)
    metrics: dict[str, float] = {
        "rows_in": sum(count[0] for count in books[0].came.values()),
        "rows_out": int(times.sum()),
        "held_out_rows": int(held_out.sum()),
        "tokens_out": int((times * decided.tokens).sum()),
        "bytes_out": int((times * decided.sizes).sum()),
    }
    for book in books:
        came = sum(count[0] for count in book.came.values())
        gone = sum(count[0] for reasons in book.left_out.values() for count in reasons.values())
        metrics[f"left_out.{book.step}"] = round(gone / max(came, 1), 6)
    languages: list[str] | None = None
    for step in steps:
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        shares: dict[str, int] = defaultdict(int)
        found: list[str] = []
        for index in range(len(corpus.files)):
            shard = StepShard(corpus, step, index)
            first = shard.first
            for column, values in shard.scores.items():
                if column == step.name == "language":
                    found += values
                    for i, value in enumerate(values):
                        shares[value] += int(times[first + i] * decided.tokens[first + i])
                elif isinstance(next((v for v in values if v is not None), None), int | float):
                    for i, value in enumerate(values):
                        if value is not None and times[first + i]:
                            sums[column][0] += value * int(times[first + i])
                            sums[column][1] += int(times[first + i])
        metrics |= {f"{step.label}.mean_{c}": s / n for c, (s, n) in sorted(sums.items()) if n}
        if found:
            languages = found
            metrics |= {f"{SHARE}{code}": round(n / total, 6) for code, n in sorted(shares.items())}
    return metrics, languages
