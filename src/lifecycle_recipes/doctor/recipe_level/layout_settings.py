"""Level 1: settings of a recipe that its layout does not support. No torch.

Upstream rejects some of these after it has loaded the model, and accepts the others without a message.
"""

from ...finding import Finding
from ...layouts.layout import Layout
from ...models.config_file import local_config
from ...recipe.read import RawRecipe

# accelerate/utils/deepspeed.py replaces these by DeepSpeed's CPUAdam, which computes the same.
OFFLOADED_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")


def method_of(raw: RawRecipe) -> str:
    """How the recipe trains: full, LoRA or QLoRA (an adapter over 4 or 8 bits)."""
    if not raw.setting("model.use_peft"):
        return "full"
    return "QLoRA" if _bits(raw) else "LoRA"


def find_in_layout_settings(raw: RawRecipe, layout: Layout) -> list[Finding]:
    """Errors quant-storage, layout-setting, layout-parallel."""
    parts = (_sizes, _storage, _optimizer, _context, _heads, _checkpointing, _split, _upstream)
    return [finding for part in parts for finding in part(raw, layout)]


def _bits(raw: RawRecipe) -> str | None:
    given = raw.values.get("model") or {}
    return next((key for key in ("load_in_4bit", "load_in_8bit") if given.get(key)), None)


def _shards_weights(layout: Layout) -> bool:
    return layout.zero_stage == 3 or layout.kind == "fsdp"


def _conflict(raw: RawRecipe, message: str, fix: str, *keys: str) -> list[Finding]:
    return [Finding.error("layout-setting", message, fix, raw.place(*keys))]


def _sizes(raw: RawRecipe, layout: Layout) -> list[Finding]:
    """The sizes in parallelism_config multiply to the process count (accelerate/parallelism_config.py)."""
    sizes = {name: getattr(layout, name) for name in ("dp_replicate", "dp_shard", "tp", "cp", "sp")}
    total = 1
    for size in sizes.values():
        total *= size
    if total in (1, layout.processes):
        return []
    product = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
    message = f"{product} need {total} processes, but the layout starts {layout.processes}"
    fix = f"pass --processes {total}, or change the sizes in parallelism_config"
    return [Finding.error("layout-parallel", message, fix, layout.name)]


def _storage(raw: RawRecipe, layout: Layout) -> list[Finding]:
    """Quantised weights can only be sharded if they are stored in the dtype of the other weights.

    Sources: peft's guides to DeepSpeed and FSDP; accelerate/utils/fsdp_utils.py leaves others unsharded.
    """
    bits = _bits(raw)
    if not bits or not _shards_weights(layout):
        return []
    if bits == "load_in_8bit":
        message = f"{layout.name or layout.kind} cannot shard 8-bit weights"
        fix = "write `load_in_4bit: true` with bnb_4bit_quant_storage, or use zero2"
        return [Finding.error("quant-storage", message, fix, raw.place("model.load_in_8bit"))]
    dtype, storage = raw.setting("model.dtype"), raw.setting("model.bnb_4bit_quant_storage") or "uint8"
    if storage == dtype:
        return []
    message = f"4-bit weights stored as {storage} next to {dtype} weights: {layout.name or layout.kind} cannot shard"
    wanted = dtype if dtype in ("bfloat16", "float16", "float32") else "bfloat16"
    fix = f"write `bnb_4bit_quant_storage: {wanted}` and `dtype: {wanted}` in the model section"
    return [
        Finding.error(
            "quant-storage", f"{message} them", fix, raw.place("model.bnb_4bit_quant_storage", "model")
        )
    ]


def _optimizer(raw: RawRecipe, layout: Layout) -> list[Finding]:
    name = str(raw.setting("train.optim") or "")
    if layout.kind == "fsdp" and ("8bit" in name or "bnb" in name or name.startswith("paged")):
        # bitsandbytes-foundation/bitsandbytes#1633: illegal memory access on sharded tensors.
        message = f"train.optim {name} does not support sharded tensors (bitsandbytes under FSDP2)"
        return _conflict(
            raw, message, "write `optim: adamw_torch_fused`, or use zero2 or zero3", "train.optim"
        )
    if layout.kind == "deepspeed" and layout.offload and name not in OFFLOADED_OPTIMIZERS:
        message = (
            f"train.optim {name} would be replaced by DeepSpeed's CPUAdam, the only optimizer that "
            "accelerate offloads"
        )
        return _conflict(raw, message, "write `optim: adamw_torch`, or use zero3", "train.optim")
    return []


def _context(raw: RawRecipe, layout: Layout) -> list[Finding]:
    """Context parallelism drops every mask except the causal one, and splits a row into 2 * cp_size pieces.

    Sources: transformers/trainer.py, _prepare_context_parallel_inputs; accelerate/big_modeling.py; torch's
    context_parallel, which balances the load with two pieces per rank.
    """
    if layout.cp == 1:
        return []
    attention = raw.setting("model.attn_implementation")
    if attention not in (None, "sdpa"):
        message = f"context parallelism supports only sdpa attention, not {attention}"
        return _conflict(raw, message, "write `attn_implementation: sdpa`", "model.attn_implementation")
    for key in ("packing", "eval_packing", "padding_free"):
        if raw.setting(f"train.{key}"):
            message = (
                f"train.{key} needs an attention mask that context parallelism drops: rows would attend to each "
                "other"
            )
            return _conflict(raw, message, f"write `{key}: false`", f"train.{key}")
    loss = raw.setting("train.loss_type")
    if loss not in (None, "nll", "chunked_nll"):
        message = f"train.loss_type {loss} needs unsplit sequences, but context parallelism splits them"
        return _conflict(raw, message, "write `loss_type: chunked_nll`", "train.loss_type")
    pieces, multiple = 2 * layout.cp, raw.setting("train.pad_to_multiple_of")
    if not multiple or multiple % pieces:
        message = f"context parallelism over {layout.cp} ranks splits a sequence into {pieces} equal parts"
        fix = f"write `pad_to_multiple_of: {pieces}` (or a multiple) in the train section"
        return _conflict(raw, message, fix, "train.pad_to_multiple_of", "train")
    config = local_config(_model_path(raw))
    types = set(config.get("layer_types") or ()) - {"full_attention"}
    if types or ("layer_types" not in config and config.get("sliding_window")):
        names = ", ".join(sorted(types)) or "sliding_attention"
        message = f"the model has {names}, which context parallelism would replace with full attention"
        return _conflict(
            raw, message, "use fsdp2, or a model with full attention", "model.model_name_or_path"
        )
    return []


def _heads(raw: RawRecipe, layout: Layout) -> list[Finding]:
    """Tensor parallelism does not split attention heads."""
    config = local_config(_model_path(raw)) if layout.tp > 1 else {}
    for key in ("num_attention_heads", "num_key_value_heads"):
        heads = config.get(key)
        if heads and heads % layout.tp:
            message = f"tp_size {layout.tp} does not divide the model's {heads} {key[4:].replace('_', ' ')}"
            fitting = [size for size in range(2, layout.tp) if heads % size == 0]
            fix = f"use a tp_size that does ({fitting[-1]})" if fitting else "use fsdp2 or zero3"
            return _conflict(raw, message, fix, "model.model_name_or_path")
    return []


def _checkpointing(raw: RawRecipe, layout: Layout) -> list[Finding]:
    if not layout.fsdp_checkpointing or not raw.setting("train.activation_checkpointing"):
        return []
    message = (
        "activation checkpointing is enabled in both the recipe and the layout: transformers rejects this"
    )
    fix = "write `fsdp_activation_checkpointing: false` in the layout"
    return _conflict(raw, message, fix, "train.activation_checkpointing", "train")


def _split(raw: RawRecipe, layout: Layout) -> list[Finding]:
    """Upstream writes no optimizer state under tensor parallelism (transformers/trainer.py)."""
    strategy, alone = raw.setting("train.save_strategy"), raw.setting("train.save_only_model")
    if layout.tp == 1 or strategy == "no" or alone:
        return []
    message = "with tensor parallelism, transformers cannot write a checkpoint that can be resumed"
    fix = "write `save_only_model: true` (checkpoints with weights only), or `save_strategy: 'no'`"
    return _conflict(raw, message, fix, "train.save_only_model", "train.save_strategy", "train")


def _upstream(raw: RawRecipe, layout: Layout) -> list[Finding]:
    """Settings that transformers/trainer.py rejects for sharded layouts, after the model is loaded."""
    if layout.zero_stage == 3 and raw.setting("train.auto_find_batch_size"):
        message = "train.auto_find_batch_size does not work with ZeRO-3"
        return _conflict(raw, message, "remove it, or use zero2 or fsdp2", "train.auto_find_batch_size")
    both = raw.setting("train.save_only_model") and raw.setting("train.load_best_model_at_end")
    if both and layout.kind in ("deepspeed", "fsdp"):
        message = "train.save_only_model with load_best_model_at_end: the best model could not be loaded"
        return _conflict(raw, message, "remove save_only_model", "train.save_only_model")
    return []


def _model_path(raw: RawRecipe) -> str:
    return str((raw.values.get("model") or {}).get("model_name_or_path"))
