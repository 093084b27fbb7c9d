"""Compare a save on disk with the trained model: files, tensor names, shapes, finite values.

Torch inside functions only; files are mapped one after the other, and their weights are not kept in memory.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..finding import Finding
from ..models.safetensors_files import in_short, tensors, weight_files

FULL, ADAPTER = ("model.safetensors", "config.json"), ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class Wanted:
    """The tensors that a save must contain, by their names on disk.

    groups: sets of names of which one is enough (tied weights); a single name is a group of one.
    others: names that are optional. size: bytes of the whole model in memory.
    """

    shapes: dict[str, tuple[int, ...]]
    groups: tuple[frozenset[str], ...]
    others: frozenset[str] = frozenset()
    adapter: bool = False
    size: int = 0


def wanted_of(model: Any) -> Wanted:
    """What a save of `model` must contain: an adapter's trained weights, else every weight.

    Call it before the model is wrapped for training: FSDP changes names and shapes. ZeRO-3's shards have the
    full shape as an attribute.
    """
    size = sum(p.element_size() * _numel(p) for p in model.parameters())
    return _of_adapter(model, size) if hasattr(model, "peft_config") else _of_model(model, size)


def _of_model(model: Any, size: int) -> Wanted:
    """Names on disk may differ from those in memory (fused experts): upstream's mapping is used."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    weights = model.state_dict(keep_vars=True)
    blank = {id(w): torch.empty(_shape(w), device="meta") for w in weights.values()}
    left_out = set(model._keys_to_ignore_on_save or ())
    state = {name: blank[id(w)] for name, w in weights.items() if name not in left_out}
    state = revert_weight_conversion(model, state)
    tied: dict[int, set[str]] = {}
    for name, tensor in state.items():
        tied.setdefault(id(tensor), set()).add(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Wanted(shapes, tuple(map(frozenset, tied.values())), frozenset(left_out), False, size)


def _of_adapter(model: Any, size: int) -> Wanted:
    """Every trained weight, by PEFT's name for it on disk, whether or not PEFT would save it."""
    shapes = {_on_disk(name): _shape(p) for name, p in model.named_parameters() if p.requires_grad}
    others = frozenset(map(_on_disk, model.state_dict(keep_vars=True)))
    return Wanted(shapes, tuple(frozenset([name]) for name in shapes), others, True, size)


def _on_disk(name: str) -> str:
    """`...lora_A.default.weight` is saved without the adapter's name; so is a module beside the adapter."""
    name = name.replace(".modules_to_save.default.", ".").replace(".default", "")
    # DoRA's vector became a module, but its name on disk did not change (peft/tuners/lora/model.py).
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _shape(parameter: Any) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _numel(parameter: Any) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def find_in_saved(directory: str, wanted: Wanted) -> list[Finding]:
    """nothing-saved, saved-incomplete and non-finite for the save in `directory`."""
    place = Path(directory)
    weights, config = ADAPTER if wanted.adapter else FULL
    found = _config(place / config)
    try:
        files = weight_files(place, weights)
        if not files:
            fix = "check the state dict type in the layout"
            return [Finding.error("nothing-saved", "saving wrote no weights", fix, directory), *found]
        return found + _tensors(directory, files, wanted)
    except _unreadable() as error:
        return [_incomplete(directory, f"its weights cannot be read: {error}"), *found]


def _unreadable() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (OSError, ValueError, KeyError, SafetensorError)


def _config(file: Path) -> list[Finding]:
    try:
        if isinstance(json.loads(file.read_text("utf-8")), dict):
            return []
        message = f"{file.name} is not an object"
    except (OSError, ValueError) as error:
        message = f"{file.name} cannot be read: {error}"
    return [_incomplete(str(file.parent), message)]


def _tensors(directory: str, files: list[Path], wanted: Wanted) -> list[Finding]:
    shapes, broken = {}, []
    for name, tensor in tensors(files):
        shapes[name] = tuple(tensor.shape)
        if not _is_finite(tensor):
            broken.append(name)
    found = []
    if missing := sorted(min(group) for group in wanted.groups if not group & shapes.keys()):
        message = f"{len(missing)} trained weights are missing: {in_short(missing)}"
        found.append(_incomplete(directory, message))
    if other := sorted(shapes.keys() - wanted.shapes.keys() - wanted.others):
        message = f"{len(other)} saved weights are not in the trained model: {in_short(other)}"
        found.append(_incomplete(directory, message))
    both = shapes.keys() & wanted.shapes.keys()
    if unlike := sorted(name for name in both if shapes[name] != wanted.shapes[name]):
        first = unlike[0]
        message = f"{len(unlike)} weights have a wrong shape, {first} first: {list(shapes[first])} on disk"
        found.append(_incomplete(directory, f"{message}, {list(wanted.shapes[first])} in training"))
    if broken:
        message = f"{len(broken)} saved weights are not finite: {in_short(sorted(broken))}"
        fix = "do not use this model; resume from the last checkpoint"
        found.append(Finding.error("non-finite", message, fix, directory))
    return found


def _is_finite(tensor: Any) -> bool:
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # float8 has no reductions
        tensor = tensor.float()
    # A NaN becomes both minimum and maximum; this needs one pass and no copy, while isfinite() makes a mask.
    return bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def _incomplete(directory: str, message: str) -> Finding:
    fix = "do not use this model: resume the run, or save it again from the last checkpoint"
    return Finding.error("saved-incomplete", message, fix, directory)
