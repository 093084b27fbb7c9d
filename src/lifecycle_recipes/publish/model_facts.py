"""What the files of a model say about it: parameters, precision, context, stop tokens. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from ..models.adapters import is_adapter
from ..models.config_file import local_config, longest_sequence
from ..models.quantised_base import quantised_bits
from ..models.safetensors_files import weight_files
from ..models.turn_end import stop_ids_of

PRECISION = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}  # names in safetensors


def model_facts(whole: Path, form: str | None, generates: bool) -> dict[str, str]:
    """Name -> text, of what can be told. whole: the directory of the model; form: of an export that is published.

    generates: whether the model writes replies, and so stops. A form has the parameters of the whole model: packed
    weights do not show their number.
    """
    adapter = is_adapter(str(whole))
    counts = count_by_precision(whole, "adapter_model.safetensors" if adapter else "model.safetensors")
    facts = {}
    if counts:
        name = "parameters of the adapter" if adapter else "parameters"
        facts[name] = f"{sum(counts.values()):,}"
        facts["precision"] = form or ", ".join(PRECISION.get(name, name) for name in counts)
    if bits := quantised_bits(str(whole)):
        facts["base"] = f"quantised to {bits} bits by bitsandbytes, in training and measurement"
    if context := longest_sequence(local_config(whole)):
        facts["context length"] = f"{context:,} tokens"
    if generates and (stops := stop_tokens(whole)):
        facts["replies end with"] = " or ".join(f"`{token}`" for token in stops)
    return facts


def count_by_precision(directory: Path, name: str) -> dict[str, int]:
    """Name of the precision in safetensors -> number of parameters, from the headers; the most frequent first."""
    from huggingface_hub import parse_local_safetensors_file_metadata

    counts: dict[str, int] = {}
    for file in weight_files(directory, name):
        for precision, number in parse_local_safetensors_file_metadata(file).parameter_count.items():
            counts[precision] = counts.get(precision, 0) + number
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def stop_tokens(directory: Path) -> list[str]:
    """The tokens at which generation stops: those of generation_config.json, and the tokenizer's EOS; as text."""
    ids = stop_ids_of(_read(directory / "generation_config.json").get("eos_token_id"))
    tokenizer = _read(directory / "tokenizer.json")
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    named = {number: token for token, number in vocabulary.items()} if isinstance(vocabulary, dict) else {}
    named |= {token["id"]: token["content"] for token in tokenizer.get("added_tokens") or []}
    eos = _read(directory / "tokenizer_config.json").get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    return list(dict.fromkeys([*(named.get(i, f"id {i}") for i in ids), *([eos] if eos else [])]))


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
