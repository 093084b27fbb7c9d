"""Several trained models as one: the mean of full models, and the combination of adapters that PEFT makes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..finding import FAILED, refuse
from ..models.adapters import load_adapter_base, require_adapter_base
from ..models.load import load_tokenizer
from ..models.saved import Saved, load_reward, load_saved
from .config import ExportedModel
from .merge import auto_class, labels
from .source import Source

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

COMBINED = "combined"  # directory, and PEFT's name, of the new adapter
MOST = 1e-5  # of a weight of `cat`, beside the sum of the adapters, per unit of the largest (at least 1)


def averaged(source: Source) -> Saved:
    """The mean of the model of `source` and its siblings, by weight, in float32, with the tokenizer of the first.

    Raises Refusal siblings-differ for weights of other names or shapes.
    """
    import torch

    load = load_reward if source.is_reward else load_saved
    total = source.weight + sum(sibling.weight for sibling in source.average)
    mean = load(source.path, revision=source.revision)
    mean.model.float()
    # Parameters, not the state dict: that one has tied weights twice.
    sums = dict(mean.model.named_parameters())
    with torch.no_grad():
        for weights in sums.values():
            weights.mul_(source.weight / total)
        for sibling in source.average:
            other = dict(load(sibling.path).model.named_parameters())
            if wrong := [
                name
                for name in {**sums, **other}
                if name not in sums or name not in other or sums[name].shape != other[name].shape
            ]:
                message = f"{sibling.path} and {source.path} have other weights of the name {wrong[0]}"
                fix = "average runs that started from one model"
                raise refuse("siblings-differ", message, fix, sibling.path)
            for name, weights in sums.items():
                weights.add_(other[name].float(), alpha=sibling.weight / total)
    return mean


def combine_adapters(source: Source, model: ExportedModel, directory: Path, seed: int) -> Source:
    """Write the combination of the adapters below `directory`, in float32; the source that it is.

    seed: of what dare drops. It is made once, on the CPU: other devices have other random numbers.
    Raises Refusal siblings-differ, with PEFT's reason; export-differs if it is not what PEFT promises.
    """
    import torch
    from peft import PeftModel

    shutil.rmtree(directory, ignore_errors=True)  # of an attempt that was killed
    shares = model.shares()
    names = {path: f"adapter_{number}" for number, path in enumerate(shares)}
    base = load_adapter_base(source.path, auto_class(source), dtype="float32", **labels(source))
    before = hashes(base)
    first, *others = names
    combined = PeftModel.from_pretrained(base, first, adapter_name=names[first])
    for path in others:
        combined.load_adapter(path, adapter_name=names[path])
    require_base(combined, before, source.path)
    torch.manual_seed(seed)
    try:
        combined.add_weighted_adapter(
            list(names.values()),
            list(shares.values()),
            COMBINED,
            combination_type=model.combination_type,
            svd_rank=model.svd_rank,
            density=model.density,
        )
    except (ValueError, TypeError, RuntimeError) as error:  # what the check does not know
        message = f"PEFT does not combine these adapters: {error}"
        raise refuse("siblings-differ", message, "choose another combination_type", source.path) from None
    require_base(combined, before, source.path)
    if model.combination_type == "cat":
        require_sum(combined, {names[path]: share for path, share in shares.items()}, source.path)
    combined.peft_config[COMBINED].base_model_name_or_path = require_adapter_base(source.path)
    combined.save_pretrained(directory, selected_adapters=[COMBINED])
    place = directory / COMBINED
    load_tokenizer(source.path, source.revision).save_pretrained(place)
    generation = Path(source.path) / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, place)
    return replace(source, path=str(place))


def hashes(model: nn.Module) -> dict[str, int]:
    """Name of a weight -> hash of its bits, by the names that it has without PEFT's layers around it."""
    import torch

    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): torch.hash_tensor(weight)
        .view(torch.int64)
        .item()
        for name, weight in model.named_parameters()
    }


def require_base(combined: PeftModel, before: dict[str, int], where: str) -> None:
    """before: `hashes` of the base. Raises Refusal siblings-differ if loading the adapters changed it."""
    after = hashes(combined)
    if changed := [name for name, digest in before.items() if after.get(name) != digest]:
        message = f"loading these adapters changes the weights of their base: {changed[0]}"
        fix = "merge each adapter by an export of its own, and list them in model.average"
        raise refuse("siblings-differ", message, fix, where)


def require_sum(combined: PeftModel, shares: dict[str, float], where: str) -> None:
    """Raises Refusal export-differs unless what COMBINED adds to every weight is the sum of the adapters.

    shares: PEFT's name of an adapter -> its weight.
    """
    from peft.tuners.lora import LoraLayer

    for name, layer in combined.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        has = {*layer.lora_A, *layer.lora_embedding_A}
        wanted = sum(share * layer.get_delta_weight(one) for one, share in shares.items() if one in has)
        gap = (wanted - layer.get_delta_weight(COMBINED) if COMBINED in has else wanted).abs().max()
        if not gap <= MOST * max(1.0, float(wanted.abs().max())):
            message = f"PEFT's combination differs from the sum of the adapters by up to {gap:.2g} in {name}"
            fix = "merge each adapter by an export of its own, and list them in model.average"
            raise refuse("export-differs", message, fix, where, FAILED)
