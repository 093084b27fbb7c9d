"""Magnitude pruning: copies of a model whose smallest weights are zero, and how many of its weights are.

The linear layers are pruned, without the output head: the embedding, which is often the same tensor, and the norms
stay whole. Nothing is trained afterwards. The masks are those of torch (torch.nn.utils.prune, torch.ao.pruning).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..finding import refuse
from ..models.config_file import read_json
from .config import PruneConfig

if TYPE_CHECKING:
    from torch.nn import Linear
    from transformers import PreTrainedModel

# Their layers are transformers' Conv1D, which is no torch.nn.Linear.
CONV1D = ("gpt2", "openai-gpt")
# transformers 5 keeps all experts of a layer in one parameter of three dimensions.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
LEAST = 0.5  # of the parameters outside the embeddings: the share that linear layers must hold


def find_in_pruning(path: str, two_of_four: bool, revision: str = "main") -> tuple[str, str] | None:
    """(why the model at a path or Hub id cannot be pruned, the fix), from its config.json; None if it can."""
    config, remove = read_json(path, "config.json", revision), "remove the section prune"
    text = config.get("text_config") or config
    text = text | (text.get("ffn_config") or {})  # of DBRX
    if text.get("model_type") in CONV1D:
        return f"the layers of the family {text['model_type']} are not linear layers of torch", remove
    if any(text.get(key) for key in EXPERTS):
        return "its experts are not linear layers of torch: most of its weights would stay whole", remove
    widths = {name: text.get(name) or 0 for name in ("hidden_size", "intermediate_size")}
    widths["heads x head_dim"] = (text.get("head_dim") or 0) * (text.get("num_attention_heads") or 0)
    odd = [f"{name} is {width}" for name, width in widths.items() if width % 4]
    if two_of_four and odd:
        return f"2 of 4 needs rows of a multiple of 4 weights: {odd[0]}", "set prune.two_of_four: false"
    return None


def write_pruned(merged: str, config: PruneConfig, form: str, directory: Path) -> None:
    """Save the model of the directory `merged`, pruned, with its tokenizer, in the dtype and size that it has there.

    form: one of config.forms. Raises Refusal not-prunable.
    """
    from transformers import AutoModelForCausalLM

    from ..models.load import load_tokenizer

    level = config.forms[form]
    if reasons := find_in_pruning(merged, two_of_four=level is None):
        raise refuse("not-prunable", *reasons, merged)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
    require_linear(model, merged)
    if level is None:
        prune_two_of_four(model)
    else:
        prune_smallest(model, level, config.scope)
    model.save_pretrained(directory)
    load_tokenizer(merged).save_pretrained(directory)


def linear_layers(model: PreTrainedModel) -> dict[str, Linear]:
    """Name -> layer, of all linear layers but the output head."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    return {name: m for name, m in model.named_modules() if isinstance(m, Linear) and m is not head}


def require_linear(model: PreTrainedModel, where: str) -> None:
    """Raises Refusal not-prunable if most weights are in no linear layer: zeros in the others would cost nothing."""
    embeddings = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m}
    rest = sum(weight.numel() for weight in model.parameters() if id(weight) not in embeddings)
    linear = sum(layer.weight.numel() for layer in linear_layers(model).values())
    if linear < LEAST * rest:
        message = f"its linear layers hold {linear / max(rest, 1):.0%} of the weights outside the embeddings"
        raise refuse("not-prunable", message, "remove the section prune", where)


def prune_smallest(model: PreTrainedModel, level: float, scope: Literal["layer", "global"]) -> None:
    """Set the share `level` of the weights with the smallest magnitude to zero, in place.

    scope: `layer` prunes every layer by that share; `global` compares the weights of all layers, so that one layer
    loses more than another.
    """
    from torch.nn.utils import prune

    layers = [(layer, "weight") for layer in linear_layers(model).values()]
    if scope == "global":
        prune.global_unstructured(layers, prune.L1Unstructured, amount=level)
    for layer, name in layers:
        if scope == "layer":
            prune.l1_unstructured(layer, name, amount=level)
        prune.remove(layer, name)


def prune_two_of_four(model: PreTrainedModel) -> None:
    """Keep the 2 largest of every 4 consecutive weights of a row, in place: what sparse tensor cores can skip."""
    from torch.ao.pruning import WeightNormSparsifier

    pruner = WeightNormSparsifier(
        sparsity_level=1.0,  # of the blocks; in each of them, two become zero
        sparse_block_shape=(1, 4),
        zeros_per_block=2,
        norm=1,  # squares of small weights would be zero in 16 bits
    )
    pruner.prepare(model, [{"tensor_fqn": f"{name}.weight"} for name in linear_layers(model)])
    pruner.step()
    pruner.squash_mask()


def count_zeros(model: PreTrainedModel) -> dict[str, Any]:
    """Shares of weights that are exactly zero: `layers` (name -> share), `linear` (of them all), `model` (of all)."""
    layers = {name: layer.weight for name, layer in linear_layers(model).items()}
    zeros = {name: int((weight == 0).sum()) for name, weight in layers.items()}
    everywhere = sum(int((weight == 0).sum()) for weight in model.parameters())
    return {
        "layers": {name: round(zeros[name] / weight.numel(), 4) for name, weight in layers.items()},
        "linear": sum(zeros.values()) / sum(weight.numel() for weight in layers.values()),
        "model": everywhere / sum(weight.numel() for weight in model.parameters()),
    }
