"""Level 1, export: the models of an average, and the adapters of a combination, must fit together. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...finding import Finding, Refusal
from ...models.adapters import adapter_base, adapter_config, is_adapter, require_adapter_base
from ...models.config_file import read_json
from ...models.quantised_base import quantised_as
from ...publish.config import ExportedModel
from ...publish.source import find_in_source
from ...recipe.paths import SIBLINGS
from ...recipe.read import RawRecipe
from ...record.parents import hash_weights, is_local
from ..trainer_level.step_zero import find_in_parent
from .files import maker

# Of config.json: what does not decide what the weights compute.
NOT_COMPARED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures")
SAME_RANK = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")  # add_weighted_adapter
PRUNING = ("ties", "dare", "magnitude_prune")
# What add_weighted_adapter of PEFT 0.21 loses without an error: it scales rsLoRA by the root of the rank, leaves out
# the magnitudes of DoRA, and copies no module, token or bias that was trained whole.
NOT_COMBINED = {
    "use_rslora": "uses rsLoRA",
    "use_dora": "uses DoRA",
    "use_bdlora": "uses block-diagonal LoRA",
    "modules_to_save": "has modules that were trained whole (modules_to_save)",
    "trainable_token_indices": "has tokens that were trained whole (trainable_token_indices)",
    "target_parameters": "targets parameters, not modules (target_parameters)",
    "lora_bias": "has biases (lora_bias)",
    "layer_replication": "repeats layers of its base (layer_replication)",
    "alora_invocation_tokens": "acts only after some tokens (aLoRA)",
    "use_qalora": "pools the inputs of a layer (QALoRA)",
    "arrow_config": "chooses among adapters (Arrow)",
    "kasa_config": "has a diagonal of its own (KaSA)",
    "velora_config": "is a VeLoRA",
    "monteclora_config": "is a MonteCLoRA",
}
# Every other one changes the base while an adapter is loaded (pissa, olora, corda, lora_ga, loftq), so that the next
# adapter is added to another base; or has a frozen matrix of its own (mica).
COMBINED_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
# It places the combined adapter where the first one is.
SAME_PLACES = ("layers_to_transform", "layers_pattern", "exclude_modules", "fan_in_fan_out")


def find_in_siblings(raw: RawRecipe) -> list[Finding]:
    """bad-value, no-effect, siblings-differ, not-exportable, adapter-base-missing, base-differs, tokenizer-differs.

    What does not exist yet, or is on the Hub and not in its cache, is not looked at.
    """
    model = raw.values["model"]
    given = [(name, i, s["path"]) for name in SIBLINGS for i, s in enumerate(model.get(name) or [])]
    if findings := _find_in_keys(raw, model, given):
        return findings
    first = model["model_name_or_path"]
    places = {first: raw.place("model.model_name_or_path", "model")} if given else {}
    places |= {
        path: raw.place(f"model.{name}[{i}].path", f"model.{name}", "model") for name, i, path in given
    }
    for path, place in places.items():
        if not (is_local(path) or raw.is_awaited(path) or maker(raw, path)):
            message = f"{path} is not on this disk, and is not averaged or combined from the Hub"
            findings.append(
                Finding.error("not-exportable", message, "download it, and give its directory", place)
            )
    for name, _, path in given:
        place = places[path]
        if not (Path(path).is_dir() and Path(first).is_dir()):
            continue
        if is_adapter(path):
            try:
                require_adapter_base(path)
            except Refusal as refusal:
                findings += refusal.findings
                continue
        if reasons := find_in_source(path):
            findings.append(Finding.error("not-exportable", *reasons, place))
            continue
        findings += find_in_parent("sibling", path)
        if reasons := _differs(raw, first, path, name):
            findings.append(Finding.error("siblings-differ", f"{path} {reasons[0]}", reasons[1], place))
    return findings


def _find_in_keys(raw: RawRecipe, model: dict, given: list[tuple[str, int, str]]) -> list[Finding]:
    """Keys of the model section that contradict each other, or have no effect."""

    def error(code: str, key: str, message: str, fix: str) -> Finding:
        return Finding.error(code, message, fix, raw.place(f"model.{key}", "model"))

    if model.get("average") and model.get("adapters"):
        message = "model.average and model.adapters are both given"
        return [error("bad-value", "adapters", message, "combine the adapters in a run of its own first")]
    findings = []
    seen = {os.path.realpath(model["model_name_or_path"])}
    for name, i, path in given:
        if os.path.realpath(path) in seen:
            message, fix = f"{path} is named twice", "name each model once, with its weight"
            findings.append(error("bad-value", f"{name}[{i}].path", message, fix))
        seen.add(os.path.realpath(path))
    kind = model.get("combination_type") or "cat"
    effect = {
        "weight": (bool(given), "without model.average or model.adapters"),
        "combination_type": (bool(model.get("adapters")), "without model.adapters"),
        "density": (
            kind.startswith(PRUNING),
            f"on {kind}: only ties, dare_* and magnitude_prune drop weights",
        ),
        "svd_rank": (kind.endswith("svd"), f"on {kind}: only svd and types that end in svd have it"),
    }
    defaults = ExportedModel("")
    for key, (has, where) in effect.items():
        if model.get(key, getattr(defaults, key)) != getattr(defaults, key) and not has:
            message = f"model.{key} has no effect {where}"
            findings.append(error("no-effect", key, message, f"remove model.{key}"))
    if model.get("adapters") and kind.startswith(PRUNING) and model.get("density") is None:
        message = f"combination_type {kind} needs model.density, the share of weights that it keeps"
        findings.append(error("bad-value", "combination_type", message, "set model.density, such as 0.5"))
    return findings


def _differs(raw: RawRecipe, first: str, other: str, kind: str) -> tuple[str, str] | None:
    """(why `other` cannot be averaged or combined with `first`, the fix); None if it can."""
    if kind == "average":
        for path in (first, other):
            if is_adapter(path):
                who = "is an adapter" if path == other else f"would be averaged with the adapter {path}"
                return who, "export the adapter first, which merges it, or list adapters in model.adapters"
        found = _config_differs(first, other)
    else:
        for path in (first, other):
            if not is_adapter(path):
                who = "is not an adapter" if path == other else f"would be combined with {path}, no adapter"
                return who, "list full models in model.average"
        found = _adapters_differ(first, other, raw.setting("model.combination_type") or "cat")
    if found:
        return found
    if reason := tokenizers_differ(first, other):
        return reason, "combine models that were trained with one tokenizer and template"
    return None


def _config_differs(first: str, other: str) -> tuple[str, str] | None:
    ours, theirs = (read_json(path, "config.json") for path in (first, other))
    fix = "average runs that started from one model"
    if ours.get("architectures") != theirs.get("architectures"):
        return f"is a {_first(theirs)}, {first} a {_first(ours)}", fix
    for key in sorted({*ours, *theirs} - set(NOT_COMPARED)):
        if ours.get(key) != theirs.get(key):
            return f"has {key} {theirs.get(key)}, {first} {ours.get(key)}", fix
    return None


def _first(config: dict[str, Any]) -> str:
    return (config.get("architectures") or ["model without an architecture"])[0]


def _adapters_differ(first: str, other: str, kind: str) -> tuple[str, str] | None:
    ours, theirs = adapter_config(first), adapter_config(other)
    fix = "merge each adapter by an export of its own, and list them in model.average"
    for path, config in ((first, ours), (other, theirs)):
        who = "" if path == other else f"would be combined with {path}, which "
        if config.get("peft_type") != "LORA":
            return f"{who}is an adapter of type {config.get('peft_type')}; PEFT combines LoRA", fix
        if config.get("bias", "none") != "none":
            return f"{who}has trained biases, which PEFT does not combine", fix
        for key, reason in NOT_COMBINED.items():
            if config.get(key):
                return f"{who}{reason}, which PEFT does not combine", fix
        if (init := config.get("init_lora_weights")) not in COMBINED_INITS:
            reason = f"was trained with init_lora_weights: {init}, which changes the weights of its base"
            return who + reason, fix
    if reason := _bases_differ(first, other):
        return reason, "combine adapters that were trained on one base"
    for key in SAME_PLACES:
        if ours.get(key) != theirs.get(key):
            return f"has {key} {theirs.get(key)}, {first} {ours.get(key)}", fix
    kinds = [isinstance(config.get("target_modules"), str) for config in (ours, theirs)]
    if kinds[0] != kinds[1]:
        return f"names its target_modules in another way (a list, a pattern) than {first}", fix
    if kind in SAME_RANK:
        fix = "set model.combination_type: cat, or a type that ends in svd"
        # PEFT saves such a combination with one rank for all modules, and cannot load it: not even of equal patterns.
        if pattern := theirs.get("rank_pattern") or ours.get("rank_pattern"):
            who = "has" if theirs.get("rank_pattern") else f"would be combined with {first}, which has"
            return f"{who} a rank_pattern, {pattern}: {kind} needs one rank for all modules", fix
        if ours["r"] != theirs["r"]:
            return f"has the rank {theirs['r']}, {first} {ours['r']}: {kind} needs equal ranks", fix
    return None


def _bases_differ(first: str, other: str) -> str | None:
    """By their weights where both are on this disk: a run that starts from an adapter has a merged base of its own."""
    ours, theirs = adapter_base(first), adapter_base(other)
    one, two = quantised_as(first), quantised_as(other)
    if one != two:
        key = next(key for key in {**one, **two} if one.get(key) != two.get(key))
        what = f"{key} {two.get(key)}, not {one.get(key)}"
        return f"was trained on a base that was quantised in another way than that of {first}: {what}"
    if ours == theirs and adapter_config(first).get("revision") == adapter_config(other).get("revision"):
        return None
    here = ours and theirs and Path(ours).is_dir() and Path(theirs).is_dir()
    if here and _weights_below(ours) == _weights_below(theirs):
        return None
    return f"was trained on {theirs}, {first} on {ours}"


def _weights_below(path: str | None) -> list[str | None]:
    """Hashes of a model's weights and, of an adapter, of those below it."""
    if path is None or not Path(path).is_dir():
        return [path] if path else []
    return [hash_weights(path), *_weights_below(adapter_base(path))]


def tokenizers_differ(first: str, other: str) -> str | None:
    """What differs: token ids, how text is divided, or the chat template. None if nothing does."""
    ours, theirs = (read_json(path, "tokenizer.json") for path in (first, other))
    one, two = _token_ids(ours), _token_ids(theirs)
    if wrong := [token for token in {**one, **two} if one.get(token) != two.get(token)]:
        return f"has other ids for {len(wrong)} tokens than {first}, {wrong[0]!r} first"
    for key in ("model", "normalizer", "pre_tokenizer", "post_processor"):
        if ours.get(key) != theirs.get(key):
            return f"divides text in another way than {first}: `{key}` of tokenizer.json differs"
    if _template(first) != _template(other):
        return f"has another chat template than {first}"
    return None


def _token_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):  # Unigram: [token, score] in the order of the ids
        vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
    return vocabulary | {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}


def _template(path: str) -> str | None:
    file = Path(path) / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return read_json(path, "tokenizer_config.json").get("chat_template")
