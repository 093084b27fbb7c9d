"""What `lifecycle bench` measured, as a table: time to the first token, tokens per second, memory. No torch."""

from typing import Any

from .aligned import aligned
from .numbers import amount, number


def speed_table(measured: dict[str, dict[str, Any]]) -> str:
    """Path -> its `bench.json`. A row per model and mode; machines and settings stand above it."""
    rows = [(path, found, speed) for path, found in measured.items() for speed in found["speeds"]]
    columns = {
        "model": [path for path, _, _ in rows],
        "mode": [speed["mode"] for _, _, speed in rows],
        "requests": [str(speed["requests"]) for _, _, speed in rows],
        "first token ms": [number(speed["first_token"] * 1000, ",.0f") for _, _, speed in rows],
        "tokens/s": [number(speed["tokens_per_second"], ",.0f") for _, _, speed in rows],
        "draft accepted": [number(speed["accepted"], ".0%") for _, _, speed in rows],
        "memory": [f"{amount(found['memory_bytes'])}B" for _, found, _ in rows],
    }
    if set(columns["draft accepted"]) == {"-"}:
        del columns["draft accepted"]
    settings = dict.fromkeys(
        f"{found['device']}, replies of {found['tokens']} tokens" for found in measured.values()
    )
    return f"speed: {'; '.join(settings)}\n\n{aligned(columns)}"
