"""Level 1, architecture: the keys and sizes of a model with random weights. No torch.

transformers rejects few of these, and only when the model is built: 0 layers make a model that trains.
"""

from dataclasses import replace
from typing import Any

from ...finding import Finding, Refusal
from ...models.config_file import require_room_for_blocks
from ...models.config_keys import config_classes, config_defaults, find_in_keys, unknown_model_type
from ...recipe.ranges import FROM_1, outside
from ...recipe.read import RawRecipe

# Number of these a model has at least one of; GPT-2 has names of its own.
SIZES = set(
    "hidden_size intermediate_size num_hidden_layers num_layers num_attention_heads num_heads".split()
)
SIZES |= set("num_key_value_heads head_dim max_position_embeddings n_embd n_layer n_head n_positions".split())


def find_in_architecture(raw: RawRecipe) -> list[Finding]:
    """unknown-model-type, unknown-config-key, wrong-type, out-of-range, bad-config, block-too-long."""
    architecture = raw.values.get("architecture")
    if not architecture:
        return []
    given, kind, classes = architecture.get("config") or {}, architecture["model_type"], config_classes()
    if classes and kind not in classes:
        return [replace(unknown_model_type(kind, list(classes)), where=raw.place("architecture.model_type"))]
    defaults = config_defaults(kind) if classes else {}
    findings = find_in_keys(classes[kind], list(defaults), given) if defaults else {}
    findings |= {key: found for key in SIZES & set(given) if (found := _size(key, given[key]))}
    if findings := findings or _heads(given, defaults):
        at = lambda key: raw.place(f"architecture.config.{key}", "architecture")  # noqa: E731
        return [replace(found, where=at(key)) for key, found in findings.items()]
    try:
        require_room_for_blocks(raw.setting("text.block_size"), given)
    except Refusal as refusal:
        return [replace(f, where=raw.place("text.block_size")) for f in refusal.findings]
    return []


def _size(key: str, value: Any) -> Finding | None:
    name = f"architecture.config.{key}"
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        return Finding.error(
            "wrong-type", f"{name} must be an integer, not {value!r}", "write a whole number"
        )
    if allowed := outside(FROM_1, value):
        message = f"{name} = {value} is outside its range: {allowed}"
        return Finding.error("out-of-range", message, "correct the value")
    return None


def _heads(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Finding]:
    """Sizes of which one must divide the other. defaults: of the config class."""
    config, findings = defaults | given, {}
    pairs = [("num_attention_heads", "num_key_value_heads")] * (given.get("num_attention_heads") is not None)
    if not any("head_dim" in key and value for key, value in config.items()):
        pairs += [("hidden_size", "num_attention_heads"), ("n_embd", "n_head")]
    for whole, part in pairs:
        a, b = config.get(whole), given.get(part)
        if isinstance(a, int) and isinstance(b, int) and a % b:
            message = f"architecture.config: {whole} {a} is not a multiple of {part} {b}"
            findings[part] = Finding.error("bad-config", message, "correct one of the two")
    return findings
