"""Check that the layers named in a LoRA recipe exist in the model."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ..finding import Finding, Refusal

if TYPE_CHECKING:
    import trl
    from transformers import PreTrainedModel

SHOWN = 12


def require_lora_targets(model: PreTrainedModel, model_config: trl.ModelConfig) -> None:
    """Raise Refusal lora-target-missing for every LoRA target that matches no layer of `model`.

    PEFT ignores targets without a match as long as one target matches, and its error lists no layers.
    """
    if not getattr(model_config, "use_peft", False):
        return
    modules = dict(model.named_modules())
    findings = []
    for key in ("lora_target_modules", "lora_modules_to_save"):
        targets = getattr(model_config, key) or []
        for target in [targets] if isinstance(targets, str) else targets:
            if target != "all-linear" and not any(matches(name, target, key, targets) for name in modules):
                findings.append(_missing(key, target, modules))
    for target in model_config.lora_target_parameters or []:
        if not any(name == target or name.endswith(f".{target}") for name, _ in model.named_parameters()):
            findings.append(_missing("lora_target_parameters", target, dict(model.named_parameters())))
    if findings:
        raise Refusal(*findings)


def is_plain_name(target) -> bool:
    """Whether a LoRA target is one name. TRL makes a list of one a string, which PEFT reads as a pattern."""
    return isinstance(target, str) and re.fullmatch(r"[\w.]+", target) is not None


def matches(name: str, target: str, key: str, given) -> bool:
    """As in PEFT: a string is a pattern for the complete name, an item of a list matches its end.

    A plain name counts as a list of one name (see `peft_config`).
    """
    if isinstance(given, str) and key == "lora_target_modules" and not is_plain_name(given):
        return re.fullmatch(target, name) is not None
    return name == target or name.endswith(f".{target}")


def _missing(key: str, target: str, named: dict) -> Finding:
    shown = layers(named)
    if key == "lora_target_modules":  # PEFT has no LoRA layer for a norm
        shown = [name for name in shown if "norm" not in type(named[name]).__name__.lower()]
    ends = sorted({name.rpartition(".")[2] for name in shown})
    near = get_close_matches(target, ends, 1)
    some = ", ".join(ends[:SHOWN]) + (f" and {len(ends) - SHOWN} more" if len(ends) > SHOWN else "")
    fix = (f"did you mean {near[0]}? " if near else "") + f"the model has {some}"
    if key == "lora_target_modules":
        fix += "; [all-linear] stands for all linear layers but the output head"
    return Finding.error("lora-target-missing", f"model.{key}: the model has no layer {target!r}", fix)


def layers(named: dict) -> list[str]:
    """Names of the layers with weights of their own. Names of parameters are unchanged."""
    return [
        name
        for name, part in named.items()
        if name
        and (not hasattr(part, "parameters") or next(part.parameters(recurse=False), None) is not None)
    ]
