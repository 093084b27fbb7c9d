"""The trained model that is exported: where it is, how it was loaded in training, why it cannot be. No torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..finding import refuse
from ..models.adapters import (
    ADAPTER_CONFIG,
    adapter_base,
    adapter_config,
    adapter_has_head,
    is_adapter,
    model_below,
)
from ..models.config_file import find_file, read_json
from ..models.quantised_base import quantisation_of
from ..recipe.pruned_forms import TWO_OF_FOUR
from ..record.parents import is_local
from .config import ExportedModel, Sibling
from .gguf_writing import find_in_gguf
from .pruning import find_in_pruning

if TYPE_CHECKING:
    import trl

# Beginnings of init_lora_weights with which PEFT 0.21 does not load an adapter as it was trained: it repeats a random
# decomposition of the base, leaves out the change of the base, or needs data of the training. pissa and olora are
# loaded exactly: their decomposition is the same each time.
NOT_RELOADED = ("pissa_niter", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class Source:
    """What is exported. path: run, directory or Hub id. quantised: how the base of a QLoRA adapter was loaded.

    weight, average: of path, and the models with which it is averaged.
    """

    path: str
    revision: str
    quantised: trl.ModelConfig | None
    is_reward: bool
    weight: float = 1.0
    average: tuple[Sibling, ...] = ()


def find_source(model: ExportedModel) -> Source:
    """Raises Refusal not-exportable."""
    path, revision = model.model_name_or_path, model.model_revision
    if reasons := find_in_source(path, revision):
        raise refuse("not-exportable", *reasons, path)
    averaged = model.weight, tuple(model.average)
    return Source(path, revision, quantisation_of(path), is_reward(path, revision), *averaged)


def find_in_source(path: str, revision: str = "main") -> tuple[str, str] | None:
    """(why a model cannot be exported, the fix); None if it can. Of a Hub id, the files of the cache or the Hub."""
    if not is_local(path) and find_file(path, ADAPTER_CONFIG, revision):
        return "an adapter on the Hub is not merged from there", "download it, and give its directory"
    if reasons := _find_in_adapter(path):
        return reasons
    config = read_json(model_below(path), "config.json", revision)
    if config.get("quantization_config"):
        return "its weights are quantised already", "export the model that they were made from"
    if config.get("auto_map"):
        return "it needs code of its own repository", "export a family that transformers contains"
    return None


def _find_in_adapter(path: str) -> tuple[str, str] | None:
    """The same, of an adapter and those below it."""
    if not is_adapter(path):
        return None
    config = adapter_config(path)
    if str(init := config.get("init_lora_weights")).startswith(NOT_RELOADED):
        reason = f"PEFT does not load an adapter with init_lora_weights: {init} on the weights that it was trained on"
        fix = (
            "save it again as plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
        return reason, fix
    if config.get("alora_invocation_tokens"):
        return (
            "it acts only after its invocation tokens (aLoRA), and cannot be merged",
            "serve it as an adapter",
        )
    base = adapter_base(path)
    return _find_in_adapter(base) if base else None


def is_reward(path: str, revision: str = "main") -> bool:
    if is_adapter(path):
        return adapter_has_head(path)
    names = read_json(path, "config.json", revision).get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def find_in_forms(
    path: str,
    sections: Collection[str],
    forms: Collection[str],
    pruned: Collection[str],
    revision: str = "main",
) -> list[tuple[str, str, str, str]]:
    """(section, code, message, fix) of what a model that can be exported rules out.

    path: directory or Hub id. sections: those of prune and evaluate that the recipe has. forms, pruned: of the copies.
    """
    if is_reward(path, revision):
        given = ["export.forms"] * bool(forms) + [name for name in ("prune", "evaluate") if name in sections]
        message = "a reward model is exported merged only, and not evaluated: it cannot generate"
        return [(name, "reward-form", message, f"remove {name}") for name in given[:1]]
    whole, found = model_below(path), []
    if pruned and (reasons := find_in_pruning(whole, TWO_OF_FOUR in pruned, revision)):
        found.append(("prune", "not-prunable", *reasons))
    gguf = [form for form in forms if form.startswith("gguf-")]
    if gguf and (reasons := find_in_gguf(whole, revision)):
        fix = "leave the GGUF forms out, or convert it with llama.cpp"
        found.append(("export.forms", "gguf-unsupported", f"{gguf[0]}: {reasons[0]}", fix))
    return found
