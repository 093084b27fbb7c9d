"""The card of curated rows: licence, size, languages and splits for the Hub; sources and ledger. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record.file import HELD_OUT, LEDGER_FILE, TRAIN

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

# The Hub's size categories end at these numbers of rows.
_STEPS = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
SIZES = [(1000, "n<1K")]
SIZES += [(10 ** (i + 4), f"{low}<n<{_STEPS[i + 1]}") for i, low in enumerate(_STEPS[:-1])]
LEAST_SHARE = 0.01  # of the tokens, for a language to be named
NO_LANGUAGE = ("code", "unknown")  # classes of the step `language`
REASONS = 3  # that are named of a step


def data_card_data(run: str, record: dict[str, Any], licence: str, sources: list[str]) -> DatasetCardData:
    """sources: data sets of the Hub. The splits are the files that exist."""
    from huggingface_hub import DatasetCardData

    metrics = record.get("metrics") or {}
    rows = int((metrics.get("rows_out") or 0) + (metrics.get("held_out_rows") or 0))
    splits = [("train", TRAIN), ("held_out", HELD_OUT)]
    files = [{"split": split, "path": name} for split, name in splits if (Path(run) / name).is_file()]
    return DatasetCardData(
        license=licence,
        language=languages(metrics) or None,
        size_categories=[size_category(rows)],
        source_datasets=sources or None,
        tags=["lifecycle-recipes", "curate"],
        # Without it, `load_dataset` would read ledger.json and the records as rows, too.
        configs=[{"config_name": "default", "data_files": files}],
    )


def languages(metrics: dict[str, float]) -> list[str]:
    """Languages with their share of the tokens, as the step `language` measured it; the largest first."""
    shares = {k.removeprefix("share."): v for k, v in metrics.items() if k.startswith("share.")}
    named = [code for code, share in shares.items() if share >= LEAST_SHARE and code not in NO_LANGUAGE]
    return sorted(named, key=lambda code: -shares[code])


def size_category(rows: int) -> str:
    return next((name for end, name in SIZES if rows < end), "n>1T")


def ledger_tables(run: str) -> list[str]:
    """Sections: the sources with their licences; rows in, left out and out of every step, with the first reasons."""
    ledger = json.loads((Path(run) / LEDGER_FILE).read_text(encoding="utf-8"))
    mixture = ledger.get("mixture") or {}
    sources = ["| source | licence | rows read | rows kept | share of tokens |", "|---|---|---|---|---|"]
    for source in ledger["sources"]:
        kept = mixture.get(source["name"]) or {}
        cells = [
            source["name"],
            source.get("license") or "not given",
            f"{source['rows']:,}",
            f"{kept['rows']:,}" if "rows" in kept else "-",
            f"{kept['share']:.1%}" if "share" in kept else "-",
        ]
        sources.append(f"| {' | '.join(cells)} |")
    parts = ["## Sources\n\n" + "\n".join(sources)]
    if steps := ledger.get("steps"):
        lines = ["| step | rows in | left out | rows out | why |", "|---|---|---|---|---|"]
        parts.append("## Ledger\n\n" + "\n".join([*lines, *map(_step, steps)]))
    return parts


def _step(step: dict[str, Any]) -> str:
    entries = list(step["sources"].values())
    came, stayed = (sum(entry[side][0] for entry in entries) for side in ("in", "out"))
    reasons: dict[str, int] = {}
    for entry in entries:
        for reason, count in entry["left_out"].items():
            reasons[reason] = reasons.get(reason, 0) + count[0]
    first = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    why = [f"{reason} {count:,}" for reason, count in first[:REASONS]]
    why += [f"{len(first) - REASONS} more reasons"] if len(first) > REASONS else []
    left = f"{sum(reasons.values()):,}"
    return f"| {step['step']} | {came:,} | {left} | {stayed:,} | {', '.join(why) or '-'} |"
