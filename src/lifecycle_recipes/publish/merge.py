"""The trained model of a run, as it was trained, and the same model without adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finding import Refusal
from ..models.adapters import adapter_has_head, base_revision, is_adapter, merge_adapter, require_adapter_base
from ..models.config_file import model_config, read_json, stored_dtype
from ..models.saved import Saved, load_reward, load_saved
from ..record.file import read_record
from .config import ExportedModel

if TYPE_CHECKING:
    import trl
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Source:
    """What is exported. path: run, directory or Hub id. quantised: how the base of a QLoRA adapter was loaded."""

    path: str
    revision: str
    quantised: trl.ModelConfig | None
    is_reward: bool

    def load(self) -> Saved:
        """The model as it was trained: an adapter on its base, 4-bit where the training was."""
        load = load_reward if self.is_reward else load_saved
        return load(self.path, self.quantised, revision=None if Path(self.path).is_dir() else self.revision)


def find_source(model: ExportedModel) -> Source:
    path = model.model_name_or_path
    return Source(path, model.model_revision, quantisation_of(path), is_reward(path))


def quantisation_of(path: str) -> trl.ModelConfig | None:
    """The model section of the run at `path`, if it is an adapter that was trained on a quantised base."""
    if not is_adapter(path):
        return None
    try:
        settings = read_record(path)["settings"]["model"]
    except (Refusal, KeyError):
        return None
    if not (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return None
    from trl import ModelConfig

    return ModelConfig(**settings)


def is_reward(path: str) -> bool:
    if is_adapter(path):
        return adapter_has_head(path)
    names = read_json(path, "config.json").get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def merged(source: Source, dtype: str | None) -> PreTrainedModel:
    """The model with its adapters merged in float32, then in `dtype`; None: that of the trained model.

    A QLoRA adapter is merged into the dequantised 4-bit weights, which it was trained on: the weights before
    quantisation are other ones. Raises Refusal: adapter-base-missing.
    """
    import torch

    wanted = dtype or stored_dtype(model_config(source.path, source.revision)).removeprefix("torch.")
    if not is_adapter(source.path):
        model = source.load().model
    elif source.quantised:
        model = _merged_into_dequantised(source)
    else:
        model = merge_adapter(source.path, _auto_class(source), dtype="float32", **_labels(source))
    return model.to(getattr(torch, wanted)).eval()


def _merged_into_dequantised(source: Source) -> PreTrainedModel:
    import torch
    from peft import PeftModel
    from trl import get_quantization_config

    base = require_adapter_base(source.path)
    options: dict[str, Any] = {"quantization_config": get_quantization_config(source.quantised)}
    options |= {"dtype": source.quantised.dtype, **_labels(source), **base_revision(source.path, base)}
    model = _auto_class(source).from_pretrained(base, **options).dequantize().to(torch.float32)
    return PeftModel.from_pretrained(model, source.path).merge_and_unload(safe_merge=True)


def _auto_class(source: Source) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if source.is_reward else AutoModelForCausalLM


def _labels(source: Source) -> dict[str, int]:
    return {"num_labels": 1} if source.is_reward else {}
