"""How the base of a QLoRA adapter was loaded in training, from the record of its run. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..finding import Refusal
from ..record.file import read_record
from ..record.parents import run_of
from .adapters import is_adapter

if TYPE_CHECKING:
    import trl

# The keys of trl.ModelConfig that decide to which values a base is quantised, with its defaults: importing TRL takes
# seconds. A 4-bit base computes in dtype, too.
DEFAULTS = {
    "dtype": "float32",
    "load_in_8bit": False,
    "load_in_4bit": False,
    "bnb_4bit_quant_type": "nf4",
    "use_bnb_nested_quant": False,
    "bnb_4bit_quant_storage": None,
}


def quantisation_of(path: str) -> trl.ModelConfig | None:
    """The model section of the run at `path`, if it is an adapter that was trained on a quantised base."""
    if not (settings := quantised_settings(path)):
        return None
    from trl import ModelConfig

    return ModelConfig(**settings)


def quantised_settings(path: str) -> dict[str, Any]:
    """The model section of that run, as in its record; {} for other models. Raises Refusal bad-record."""
    if not is_adapter(path):
        return {}
    try:
        settings = (read_record(run_of(path) or path).get("settings") or {}).get("model") or {}
    except Refusal as refusal:
        # An unreadable record is no reason to use the adapter on weights that it was not trained on.
        if refusal.findings[0].code != "no-record":
            raise
        return {}
    return settings if settings.get("load_in_4bit") or settings.get("load_in_8bit") else {}


def quantised_as(path: str) -> dict[str, Any]:
    """How the base of the adapter at `path` was quantised, with the defaults; {} if it was not."""
    if not (settings := quantised_settings(path)):
        return {}
    found = {key: settings.get(key, default) for key, default in DEFAULTS.items()}
    if found["load_in_8bit"]:  # where the others have no effect (trl.get_quantization_config)
        return {key: found[key] for key in ("load_in_8bit", "dtype")}
    return found


def quantised_bits(path: str) -> int | None:
    """Bits per weight of the base on which the adapter at `path` was trained; None if it was not quantised."""
    settings = quantised_settings(path)
    return (4 if settings.get("load_in_4bit") else 8) if settings else None
