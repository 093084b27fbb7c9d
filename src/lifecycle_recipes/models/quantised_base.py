"""How the base of a QLoRA adapter was loaded in training, from the record of its run. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..finding import Refusal
from ..record.file import read_record
from ..record.parents import run_of
from .adapters import is_adapter

if TYPE_CHECKING:
    import trl


def quantisation_of(path: str) -> trl.ModelConfig | None:
    """The model section of the run at `path`, if it is an adapter that was trained on a quantised base."""
    if not (settings := quantised_settings(path)):
        return None
    from trl import ModelConfig

    return ModelConfig(**settings)


def quantised_settings(path: str) -> dict[str, Any]:
    """The model section of that run, as in its record; {} for other models."""
    if not is_adapter(path):
        return {}
    try:
        settings = read_record(run_of(path) or path)["settings"]["model"]
    except (Refusal, KeyError):
        return {}
    return settings if settings.get("load_in_4bit") or settings.get("load_in_8bit") else {}


def quantised_bits(path: str) -> int | None:
    """Bits per weight of the base on which the adapter at `path` was trained; None if it was not quantised."""
    settings = quantised_settings(path)
    return (4 if settings.get("load_in_4bit") else 8) if settings else None
