"""The vocabulary sweep of a tokenizer's record, as a table and a plot in plain text. No torch."""

from typing import Any

from .aligned import aligned
from .numbers import amount

BAR = 40  # characters of the longest bar


def sweep_text(rows: list[dict[str, Any]], chosen: int | None = None) -> str:
    """Table and plot. rows: the field `sweep` of run.json. chosen: the size of the saved tokenizer."""
    unfilled = [
        f"{', '.join(f'{size:,}' for size in row['asked'])}: the text gives {row['vocab_size']:,} tokens, not more"
        for row in rows
        if row["asked"] != [row["vocab_size"]]
    ]
    return "\n\n".join([sweep_table(rows, chosen), *unfilled, sweep_plot(rows)])


def sweep_table(rows: list[dict[str, Any]], chosen: int | None = None) -> str:
    """One line per size; a column for each source and language if there are several."""
    columns = {
        "vocabulary": [
            f"{row['vocab_size']:,}" + (" (saved)" if row["vocab_size"] == chosen else "") for row in rows
        ],
        "bytes/token": [f"{row['bytes_per_token']:.3f}" for row in rows],
    }
    for part in ("sources", "languages"):
        names = list(dict.fromkeys(name for row in rows for name in row[part]))
        if len(names) > 1:
            columns |= {name: [f"{row[part][name]:.3f}" for row in rows] for name in names}
    columns["rare tokens"] = [f"{row['rare_tokens']:.1%}" for row in rows]
    if any("embedding_parameters" in row for row in rows):
        columns["embedding"] = [amount(row["embedding_parameters"]).strip() for row in rows]
    columns["unknown"] = [f"{row['unknown_rate']:.2%}" for row in rows]
    return aligned(columns, left=0)


def sweep_plot(rows: list[dict[str, Any]]) -> str:
    """Bars from 0: bytes per token, and the share of the tokens that the training text hardly uses."""
    width = max(len(f"{row['vocab_size']:,}") for row in rows)
    most = max(row["bytes_per_token"] for row in rows) or 1
    lines = ["bytes per token, on held-out text"]
    lines += [
        f"{row['vocab_size']:>{width},} {bar(row['bytes_per_token'] / most)} {row['bytes_per_token']:.2f}"
        for row in rows
    ]
    lines.append("rare tokens: share used fewer than 10 times in the training text")
    lines += [
        f"{row['vocab_size']:>{width},} {bar(row['rare_tokens'])} {row['rare_tokens']:.1%}" for row in rows
    ]
    return "\n".join(lines)


def bar(share: float) -> str:
    return "#" * round(BAR * share) or "."
