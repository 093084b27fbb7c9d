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
    import pyarrow as pa

SHARE = "share."  # followed by a language: the metric of its share


def measure(
    corpus: Corpus,
    steps: list[StepOf],
    decided: Decided,
    times: np.ndarray,
    held_out: np.ndarray,
    books: list[Books],
) -> tuple[dict[str, float], Languages | None]:
    """(metrics, the language of every document if a step found it).

    rows_in, rows_out, tokens_out, bytes_out, held_out_rows; left_out.<step>: share of the rows that came to it;
    share.<language>: of the tokens of the mixture; <step>.mean_<score>: over the documents of the mixture.
    """
    import numpy as np

    total = max(int((times * decided.tokens).sum()), 1)
    metrics: dict[str, float] = {
        "rows_in": sum(count[0] for count in books[0].came.values()),
        "rows_out": int(times.sum()),
        "rows_repeated": int((times[times > 0] - 1).sum()),
        "held_out_rows": int(held_out.sum()),
        "tokens_out": int((times * decided.tokens).sum()),
        "bytes_out": int((times * decided.sizes).sum()),
    }
    for book in books:
        came = sum(count[0] for count in book.came.values())
        gone = sum(count[0] for reasons in book.left_out.values() for count in reasons.values())
        metrics[f"left_out.{book.step}"] = round(gone / max(came, 1), 6)
    languages: Languages | None = None
    for step in steps:
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        found = Languages(len(corpus)) if step.name == "language" else None
        for index in range(len(corpus.files)):
            shard = StepShard(corpus, step, index)
            mine = slice(shard.first, shard.first + len(shard))
            for column, values in zip(shard.scores, shard.scores.table.columns, strict=True):
                if column == "language" and found:
                    found.set(mine, values.to_pylist())
                elif (numbers := _numbers(values)) is not None:
                    known = ~np.isnan(numbers)
                    sums[column][0] += float((numbers[known] * times[mine][known]).sum())
                    sums[column][1] += int(times[mine][known].sum())
        metrics |= {f"{step.label}.mean_{c}": s / n for c, (s, n) in sorted(sums.items()) if n}
        if found:
            languages = found
            counts = np.bincount(found.codes, times * decided.tokens, len(found.names)).astype(int).tolist()
            shares = sorted(zip(found.names, counts, strict=True))
            metrics |= {f"{SHARE}{code}": round(n / total, 6) for code, n in shares}
    return metrics, languages


class Languages:
    """The language of every document: 2 bytes each."""

    def __init__(self, documents: int):
        import numpy as np

        self.names: list[str] = []
        self.codes = np.zeros(documents, np.uint16)

    def set(self, where: slice, languages: list[str]) -> None:
        self.names += sorted(set(languages) - set(self.names))
        code = {name: n for n, name in enumerate(self.names)}
        self.codes[where] = [code[language] for language in languages]

    def __getitem__(self, number: int) -> str:
        return self.names[self.codes[number]]


def _numbers(column: pa.ChunkedArray) -> np.ndarray | None:
    """The values of a column of numbers, NaN where there is none; None for other columns."""
    import numpy as np
    import pyarrow.types as types

    kind = column.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        return None
    return column.cast("float64", safe=False).to_numpy() if len(column) else np.empty(0)
