"""The weight files of a saved model: safetensors, tensor by tensor, and pickles, which it should not have."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..finding import Finding

SHOWN = 3
# Pickled weights: torch.load runs code in them, and from_pretrained may load them as the model.
PICKLES = ("pytorch_model*.bin", "adapter_model*.bin", "model*.pt", "model*.pth", "consolidated*.pth")


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


def find_pickles(directory: str) -> list[Finding]:
    """saved-pickled: weights as pickles beside the safetensors."""
    names = sorted(file.name for pattern in PICKLES for file in Path(directory).glob(pattern))
    if not names:
        return []
    message = f"the directory contains pickled weights: {in_short(names)}"
    fix = "remove them: loading a pickle runs code, and some tools prefer pickles to safetensors"
    return [Finding.error("saved-pickled", message, fix, directory)]


def in_short(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
