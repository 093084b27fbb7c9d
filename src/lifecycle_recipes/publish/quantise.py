"""int8 and NF4 copies of a model, by bitsandbytes; they load with from_pretrained."""

from __future__ import annotations

from pathlib import Path

from ..models.config_file import model_config, stored_dtype
from ..models.load import load_tokenizer
from ..models.saved import default_device


def write_quantised(merged: str, form: str, directory: Path) -> None:
    """Save the model of the directory `merged` in `form`, int8 or nf4, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if form == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        dtype = stored_dtype(model_config(merged)).removeprefix("torch.")
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
        )
    model = AutoModelForCausalLM.from_pretrained(
        merged, dtype="auto", quantization_config=config, device_map={"": default_device()}
    )
    model.save_pretrained(directory)
    load_tokenizer(merged).save_pretrained(directory)
