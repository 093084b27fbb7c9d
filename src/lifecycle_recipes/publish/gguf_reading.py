"""A GGUF file as transformers reads it: its own tokenizer, and its weights in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..models.saved import Saved
from .gguf_writing import ROPE_FACTORS

FILE = "model.gguf"


def load_gguf(directory: str | Path) -> Saved:
    """The model of `directory`/model.gguf, its tokenizer, and the stop tokens that the file names."""
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = str(directory)
    with _without_bar():
        model = AutoModelForCausalLM.from_pretrained(place, gguf_file=FILE, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=FILE)
    reader = GGUFReader(Path(place) / FILE)
    _scale_rope(model, reader)
    fields = reader.fields
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    model.generation_config.eos_token_id = sorted({fields[key].contents() for key in keys if key in fields})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Saved(place, model, tokenizer).bring_back()


def _scale_rope(model: Any, reader: Any) -> None:
    """Divide the rotary frequencies by the factors in the file, as llama.cpp does; transformers leaves them out."""
    import torch

    for tensor in reader.tensors:
        if tensor.name == ROPE_FACTORS:
            rotary = model.base_model.rotary_emb
            rotary.inv_freq /= torch.tensor(tensor.data, device=rotary.inv_freq.device)


@contextmanager
def _without_bar() -> Iterator[None]:
    """Upstream shows a bar per file that no setting hides."""
    from transformers import modeling_gguf_pytorch_utils as upstream

    shown, upstream.tqdm = upstream.tqdm, partial(upstream.tqdm, disable=True)
    try:
        yield
    finally:
        upstream.tqdm = shown
