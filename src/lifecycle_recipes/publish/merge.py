"""The trained model of a run, as it was trained, and the same model without adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.adapters import (
    base_revision,
    is_adapter,
    merge_adapter,
    require_adapter_base,
)
from ..models.config_file import model_config, stored_dtype
from ..models.saved import Saved, load_reward, load_saved
from .source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_trained(source: Source) -> Saved:
    """The model as it was trained: an adapter on its base, 4-bit where the training was; or the average."""
    if source.average:
        from .combine import averaged

        return averaged(source)
    load = load_reward if source.is_reward else load_saved
    return load(
        source.path, source.quantised, revision=None if Path(source.path).is_dir() else source.revision
    )


def merged(source: Source, dtype: str | None) -> PreTrainedModel:
    """The model with its adapters merged in float32, then in `dtype`; None: that of the trained model.

    A QLoRA adapter is merged into the dequantised 4-bit weights, which it was trained on: the weights before
    quantisation are other ones. Raises Refusal: adapter-base-missing.
    """
    import torch

    wanted = dtype or stored_dtype(model_config(source.path, source.revision)).removeprefix("torch.")
    if not is_adapter(source.path):
        model = load_trained(source).model
    elif source.quantised:
        model = _merged_into_dequantised(source)
    else:
        model = merge_adapter(source.path, auto_class(source), dtype="float32", **labels(source))
    return model.to(getattr(torch, wanted)).eval()


def _merged_into_dequantised(source: Source) -> PreTrainedModel:
    import torch
    from peft import PeftModel
    from trl import get_quantization_config

    base = require_adapter_base(source.path)
    options: dict[str, Any] = {"quantization_config": get_quantization_config(source.quantised)}
    options |= {"dtype": source.quantised.dtype, **labels(source), **base_revision(source.path, base)}
    model = auto_class(source).from_pretrained(base, **options).dequantize().to("cpu", torch.float32)
    return PeftModel.from_pretrained(model, source.path).merge_and_unload(safe_merge=True)


def auto_class(source: Source) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if source.is_reward else AutoModelForCausalLM


def labels(source: Source) -> dict[str, int]:
    return {"num_labels": 1} if source.is_reward else {}
