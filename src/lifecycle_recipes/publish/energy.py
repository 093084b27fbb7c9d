"""The energy of a chain of runs: measured time x a stated power. An estimate, and none without a power. No torch."""

from __future__ import annotations

from typing import Any

from .lineage import name_of

ON_CPU = ("curate", "tokenizer")  # stages that use no GPU


def devices(record: dict[str, Any]) -> tuple[str, int]:
    """(name, number) of what a run computed on: a GPU for each of its processes, else the CPUs of its machines.

    The record names all GPUs of the machine. Stages without a layout use one of them (evaluate, export), or none.
    """
    hardware, layout = record.get("hardware") or {}, record.get("layout") or {}
    gpus = list(map(str, hardware.get("gpus") or []))
    if gpus and layout.get("device") != "cpu" and record.get("stage") not in ON_CPU:
        return gpus[0], layout.get("processes") or 1
    return hardware.get("cpu") or "unknown hardware", layout.get("machines") or 1


def energy(chain: dict[str, dict[str, Any]], run: str, watts: float | None) -> str:
    """A sentence; empty without a power. watts: mean power of one device of the kind that `run` used.

    Runs on other devices are named, and not counted.
    """
    if watts is None:
        return ""
    kind, joules, others = devices(chain[run])[0], 0.0, []
    for place, record in chain.items():
        name, number = devices(record)
        if name == kind:
            joules += (record.get("wall_seconds") or 0) * number * watts
        else:
            others.append(f"{name_of(place)} ({name})")
    left = f" Not counted, on other hardware: {', '.join(others)}." if others else ""
    return (
        f"Energy, estimated: {joules / 3.6e6:.3g} kWh: the measured wall time of the runs above x the stated "
        f"{watts:g} W of one {kind}, for each that was in use; nothing else of the machine, and no cooling.{left}"
    )
