"""8-bit and 4-bit copies of a model that need no data, by bitsandbytes and torchao; they load with from_pretrained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..models.config_file import model_config, stored_dtype
from ..models.load import load_tokenizer
from ..models.saved import default_device

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin


def write_quantised(merged: str, form: str, directory: Path) -> None:
    """Save the model of the directory `merged` in `form`, with its tokenizer. form: a key of `quantisation`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        merged,
        dtype="auto",
        quantization_config=quantisation(form, stored_dtype(model_config(merged))),
        device_map={"": default_device()},
    )
    model.save_pretrained(directory)
    load_tokenizer(merged).save_pretrained(directory)


def quantisation(form: str, dtype: str) -> QuantizationConfigMixin:
    """The settings of int8, nf4, torchao-int8 or torchao-fp8. dtype: of the model, in which nf4 computes.

    Of torchao's int4 there is no form: those of its layouts that are safetensors (plain, tile_packed_to_4d) are made
    and read on a GPU only, the layout for CPUs is not among those that transformers saves.
    """
    import torch
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if form == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if form == "nf4":
        computes = getattr(torch, dtype.removeprefix("torch."))
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computes
        )
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if form == "torchao-int8" else Float8WeightOnlyConfig())
