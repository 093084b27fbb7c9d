"""Several trained models as one: the mean of full models, and the combination of adapters that PEFT makes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from ..finding import refuse
from ..models.adapters import load_adapter_base, require_adapter_base
from ..models.load import load_tokenizer
from ..models.saved import Saved, load_reward, load_saved
from .config import ExportedModel
from .merge import auto_class, labels
from .source import Source

COMBINED = "combined"  # directory, and PEFT's name, of the new adapter


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
    Raises Refusal siblings-differ, with PEFT's reason.
    """
    import torch
    from peft import PeftModel

    shutil.rmtree(directory, ignore_errors=True)  # of an attempt that was killed
    shares = model.shares()
    names = {path: f"adapter_{number}" for number, path in enumerate(shares)}
    base = load_adapter_base(source.path, auto_class(source), dtype="float32", **labels(source))
    first, *others = names
    combined = PeftModel.from_pretrained(base, first, adapter_name=names[first])
    for path in others:
        combined.load_adapter(path, adapter_name=names[path])
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
    except (ValueError, TypeError) as error:  # what the check does not know
        message = f"PEFT does not combine these adapters: {error}"
        raise refuse("siblings-differ", message, "choose another combination_type", source.path) from None
    combined.peft_config[COMBINED].base_model_name_or_path = require_adapter_base(source.path)
    combined.save_pretrained(directory, selected_adapters=[COMBINED])
    place = directory / COMBINED
    load_tokenizer(source.path, source.revision).save_pretrained(place)
    generation = Path(source.path) / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, place)
    return replace(source, path=str(place))
