"""What `lifecycle bench` measured, as tables: time to the first token, tokens per second. No torch."""

import json
from pathlib import Path
from typing import Any

from ..record.file import BENCH_FILE
from ..record.parents import hash_weights
from .aligned import aligned
from .numbers import amount, number

UNSTEADY = 1.5  # times between the slowest and the fastest of equal runs
KEYS = {"device", "dtype", "tokens", "draft", "weights_bytes", "speeds", "weights_sha256"}


def speed_tables(measured: dict[str, dict[str, Any]]) -> str:
    """Path -> its `bench.json`. A table for each machine and setting, a row per model and mode."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for path, found in measured.items():
        draft = f", draft {found['draft']}" if found["draft"] else ""
        same = f"{found['device']}, {found['dtype']}, replies of {found['tokens']} tokens{draft}"
        tables.setdefault(same, {})[path] = found
    return "\n\n".join(f"speed: {same}\n\n{_table(runs)}" for same, runs in tables.items())


def _table(measured: dict[str, dict[str, Any]]) -> str:
    rows = [(path, found, speed) for path, found in measured.items() for speed in found["speeds"]]
    columns = {
        "model": [path for path, _, _ in rows],
        "mode": [speed["mode"] for _, _, speed in rows],
        "requests": [str(speed["requests"]) for _, _, speed in rows],
        "first token ms": [number(speed["first_token"] * 1000, ",.0f") for _, _, speed in rows],
        "tokens/s": [number(speed["tokens_per_second"], ",.0f") for _, _, speed in rows],
        "spread": [f"{speed['spread']:.1f}x" for _, _, speed in rows],
        "draft accepted": [number(speed["accepted"], ".0%") for _, _, speed in rows],
        "weights": [f"{amount(found['weights_bytes'])}B" for _, found, _ in rows],
    }
    if set(columns["draft accepted"]) == {"-"}:
        del columns["draft accepted"]
    widest = max(speed["spread"] for _, _, speed in rows)
    if widest < UNSTEADY:
        return aligned(columns)
    # On a CPU, two threads that wait for each other while a third program runs: all modes suffer, and not alike.
    hint = "measure on a quiet machine, or with OMP_NUM_THREADS=1"
    return f"{aligned(columns)}\n\nequal runs differ by up to {widest:.1f}x: do not compare these numbers; {hint}"


def read_speeds(directory: Path) -> dict[str, dict[str, Any]]:
    """Name of the directory below, or "." -> its `bench.json`, if that was measured of the weights that are there."""
    found = {}
    for file in [*directory.glob(BENCH_FILE), *sorted(directory.glob(f"*/{BENCH_FILE}"))]:
        try:
            measured = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(measured, dict) or measured.keys() != KEYS:
            continue  # of another version
        if measured["weights_sha256"] == hash_weights(file.parent):
            found[str(file.parent.relative_to(directory))] = measured
    return found
