"""The safetensors files of a saved model, tensor by tensor. No torch on import."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def weight_files(place: Path, name: str) -> list[Path]:
    """The safetensors that from_pretrained reads, in its order: the single file, else those of the index."""
    if (place / name).is_file():
        return [place / name]
    index = place / f"{name}.index.json"
    if not index.is_file():
        return []
    return [place / file for file in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]


def tensors(files: list[Path]) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of every weight in the files, as mapped from disk."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                yield name, weights.get_tensor(name)
