"""LoRA from a recipe, and chains of adapters: a new adapter always includes the one that it starts from."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..finding import Refusal, refuse
from ..record.file import read_record
from ..record.parents import is_local
from .json_file import read_object
from .lora_targets import is_plain_name

if TYPE_CHECKING:
    import trl

ADAPTER_CONFIG = "adapter_config.json"
MERGED_BASE = "base"  # directory in a run's output_dir


def is_adapter(path: str) -> bool:
    """Whether a local directory holds a PEFT adapter."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def peft_config(model_config: trl.ModelConfig):
    """The `peft.LoraConfig` of a `trl.ModelConfig`, or None without `use_peft`.

    Without `lora_target_modules` every linear layer except the output head gets an adapter ("all-linear"), as
    in QLoRA; PEFT's own default is q and v of the attention only. The check refuses `lora_*` keys without
    `use_peft` (lora-without-peft).
    """
    from trl import get_peft_config

    if model_config.use_peft:
        config = get_peft_config(model_config)
        if config.target_modules is None and config.target_parameters is None:
            config.target_modules = "all-linear"
        # Saved with the adapter: without it, every later load would read the base from the Hub's `main`.
        if model_config.model_revision != "main" and not is_local(model_config.model_name_or_path):
            config.revision = model_config.model_revision
        if is_plain_name(config.target_modules):
            config.target_modules = [config.target_modules]
        # Without it PEFT trains only a copy of a tied input embedding, and the output head stays unchanged:
        # tokens that the base never saw would have equal probabilities (huggingface/peft#2777).
        config.ensure_weight_tying = _trains_embeddings(config)
        warnings.filterwarnings("ignore", ".*ensure_weight_tying.*no tied modules were found")
        return config
    return None


def _trains_embeddings(config) -> bool:
    named = [*(config.modules_to_save or [])]
    if not isinstance(config.target_modules, str):
        named += config.target_modules or []
    return any(name.split(".")[-1] in ("embed_tokens", "lm_head") for name in named)


def adapter_base(path: str) -> str | None:
    """The base of the adapter at `path`, a path or a Hub id; None if `path` is not an adapter or names none.

    The base that the adapter's config names. If that directory does not exist: the merged base (models/load.py)
    next to the adapter, or the parent where its run's record says that it lies, seen from the adapter.
    """
    if not is_adapter(path):
        return None
    base = adapter_config(path).get("base_model_name_or_path")
    if base is not None and Path(base).is_dir():
        return base
    beside = Path(path) / MERGED_BASE
    moved = [beside, _recorded_parent(path)]
    return next((str(place) for place in moved if place and place.is_dir()), base)


def _recorded_parent(path: str) -> Path | None:
    """The local parent of the run at `path`, if the adapter was trained on it and not on a merged base."""
    try:
        parent = read_record(path)["parents"]["model"]
    except (Refusal, KeyError, TypeError):
        return None
    place = Path(os.path.normpath(Path(path).resolve() / parent["relative"]))
    return None if is_adapter(str(place)) else place


def model_below(path: str) -> str:
    """The full model below the chain of adapters at `path`; `path` itself if it is not an adapter."""
    base = adapter_base(path)
    return path if base is None else model_below(base)


def require_adapter_base(path: str) -> str:
    """`adapter_base` of an adapter. Raises Refusal adapter-base-missing if it has none that exists."""
    base = adapter_base(path)
    if base is None or (is_local(base) and not Path(base).is_dir()):
        named = f"was trained on {base}, which does not exist" if base else "does not name the model below it"
        raise refuse(
            "adapter-base-missing",
            f"the adapter {named}",
            "train the base again, or correct base_model_name_or_path in adapter_config.json",
            path,
        )
    return base


def adapter_config(path: str) -> dict:
    """Raises Refusal parent-unreadable."""
    return read_object(Path(path) / ADAPTER_CONFIG)


def merge_adapter(path: str, auto_class, **load_options):
    """The model of an adapter directory with its complete chain merged, in full precision, on the CPU or GPU.

    Raises Refusal: adapter-base-missing; ValueError for an adapter with a NaN.
    """
    from peft import PeftModel

    model = load_adapter_base(path, auto_class, **load_options)
    return PeftModel.from_pretrained(model, path).merge_and_unload(safe_merge=True)


def load_adapter_base(path: str, auto_class, **load_options):
    """The model on which the adapter at `path` was trained, all adapters below merged. Raises as `merge_adapter`."""
    base = require_adapter_base(path)
    if is_adapter(base):
        return merge_adapter(base, auto_class, **load_options)
    return auto_class.from_pretrained(base, **load_options, **base_revision(path, base))


def base_revision(path: str, base: str) -> dict[str, str]:
    """`{"revision": ...}` of the base of the adapter at `path`; {} if the base is a directory."""
    revision = adapter_config(path).get("revision")
    return {"revision": revision} if revision and not is_local(base) else {}


def adapter_has_head(path: str) -> bool:
    """Whether a trained reward head was saved with the adapter at `path`.

    Raises Refusal saved-pickled for the adapter_model.bin of an older PEFT, parent-no-weights, parent-unreadable.
    """
    from safetensors import SafetensorError, safe_open

    file, pickle = Path(path) / "adapter_model.safetensors", Path(path) / "adapter_model.bin"
    if not file.is_file() and pickle.is_file():
        message = "the adapter's weights are a pickle, which runs code when it is loaded"
        fix = "if you trust it, save it again with PEFT: PeftModel.from_pretrained(base, path).save_pretrained(path)"
        raise refuse("saved-pickled", message, fix, str(pickle))
    if not file.is_file():
        raise refuse("parent-no-weights", f"the adapter has no {file.name}", "copy it again", path)
    try:
        with safe_open(file, framework="pt") as weights:
            return any({"score", "classifier"} & set(key.split(".")) for key in weights.keys())  # noqa: SIM118
    except SafetensorError as error:
        message = f"this file cannot be read: {error}"
        raise refuse("parent-unreadable", message, "download or copy it again", str(file)) from None
