"""Load the model of a parent run or of the Hub: a full model or an adapter, with or without a reward head."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..finding import refuse
from ..record.manifest import find_damage, write_manifest
from ..record.parents import hash_file, is_local
from .adapters import MERGED_BASE, adapter_has_head, is_adapter, merge_adapter
from .lora_targets import require_lora_targets

if TYPE_CHECKING:
    import trl
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MERGED_FROM = "merged_from.json"  # the adapter that a merged base includes
RANDOM_STATE = "random_state.npy"  # torch's, after merging


def load_tokenizer(path: str, revision: str = "main"):
    """The tokenizer at `path`. Raises Refusal: parent-no-tokenizer."""
    from transformers import AutoTokenizer

    if is_local(path) and not (Path(path) / "tokenizer_config.json").is_file():
        message = "the directory has no tokenizer" if Path(path).is_dir() else "the directory does not exist"
        raise refuse("parent-no-tokenizer", message, "give a run that saved one", path)
    return AutoTokenizer.from_pretrained(path, revision=revision)


def use_template(tokenizer: PreTrainedTokenizerBase, path: str | None) -> None:
    """Set the template of `tokenizer` to the file at `path` (train.chat_template_path), if it is a file.

    Upstream does this too, but only when its trainer is built, which is after we need the end-of-turn token.
    """
    if path and path.endswith((".jinja", ".j2")) and Path(path).is_file():
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")


def load_causal_lm(model_config: trl.ModelConfig, train_args):
    """The causal LM of a `trl.ModelConfig`, quantised if configured.

    An adapter parent is first merged into its base in full precision, and the result is written to
    `<output_dir>/base`. So the base of a new adapter includes the parent, here and when the saved adapter is
    loaded later. 4-bit loading quantises that merged base.
    Raises Refusal: parent-no-weights, adapter-base-missing, weights-missing, lora-target-missing.
    """
    from transformers import AutoModelForCausalLM

    path = model_config.model_name_or_path
    require_weights(path)
    if is_adapter(path):
        path = _write_merged_base(path, model_config, train_args, AutoModelForCausalLM)
    options = _options(model_config, train_args) | {"output_loading_info": True}
    model, info = AutoModelForCausalLM.from_pretrained(path, **options)
    if missing := sorted(info["missing_keys"]):  # upstream fills them with random numbers and only warns
        message = f"{len(missing)} weights are missing and would be random, {missing[0]} first"
        raise refuse("weights-missing", message, "give a run that saved a complete language model", path)
    require_lora_targets(model, model_config)
    name_base(model, path)
    return keep_4bit_layout(model)


def load_reward_model(model_config: trl.ModelConfig, train_args, new_head: bool = False):
    """The sequence classifier with one output of a `trl.ModelConfig`.

    new_head: start from a causal LM, with a new head (the reward stage). Otherwise a missing head is refused
    (reward-head-missing): upstream would fill it with random numbers and only warn.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    path = model_config.model_name_or_path
    require_weights(path)
    if is_adapter(path):
        has_head = adapter_has_head(path)
        auto_class = AutoModelForSequenceClassification if has_head else AutoModelForCausalLM
        path = _write_merged_base(path, model_config, train_args, auto_class)
    options = _options(model_config, train_args) | {"num_labels": 1, "output_loading_info": True}
    model, info = AutoModelForSequenceClassification.from_pretrained(path, **options)
    missing = [key for key in info["missing_keys"] if key.split(".")[0] in ("score", "classifier")]
    if missing and not new_head:
        raise refuse(
            "reward-head-missing",
            f"the model has no trained reward head ({', '.join(missing)})",
            "give the output_dir of a reward stage",
            path,
        )
    require_lora_targets(model, model_config)
    name_base(model, path)
    return keep_4bit_layout(model)


def name_base(model: PreTrainedModel, path: str) -> None:
    """Let PEFT write an absolute path into adapter_config.json: an adapter is also loaded from elsewhere."""
    if os.path.isdir(path):
        model.name_or_path = os.path.abspath(path)


def require_weights(path: str) -> None:
    # The record refuses a parent without weights too; this also guards calls from outside a run.
    names = ("*.safetensors", "*.bin", "*.safetensors.index.json")
    if is_local(path) and not any(file for name in names for file in Path(path).glob(name)):
        raise refuse(
            "parent-no-weights", "the directory has no weights", "run the parent stage to completion", path
        )


def _options(model_config: trl.ModelConfig, train_args) -> dict:
    """Keyword arguments of `from_pretrained`."""
    from accelerate import PartialState
    from transformers.distributed import DistributedConfig
    from transformers.integrations import is_deepspeed_zero3_enabled
    from trl import get_quantization_config

    options = {
        "revision": model_config.model_revision,
        "dtype": model_config.dtype,
        "attn_implementation": model_config.attn_implementation,
        "trust_remote_code": getattr(train_args, "trust_remote_code", False),
    }
    if quantization := get_quantization_config(model_config):
        options["quantization_config"] = quantization
        # Under ZeRO-3 upstream accepts no device map: every rank reads the model, DeepSpeed then shards it.
        if not is_deepspeed_zero3_enabled():
            options["device_map"] = {"": PartialState().device}
    if (size := tensor_parallel_size()) > 1:
        options["distributed_config"] = DistributedConfig(tp_size=size)
    return options


def tensor_parallel_size() -> int:
    """tp_size of the layout, from the variables of accelerate's launcher; 1 without tensor parallelism.

    accelerate itself splits no weight: a model that was loaded unsharded would be trained unsharded.
    """
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() != "true":
        return 1
    return int(os.environ.get("PARALLELISM_CONFIG_TP_SIZE", 1))


def keep_4bit_layout(model: PreTrainedModel):
    """Keep evaluation on a CPU with AVX512-BF16 from repacking 4-bit weights for inference.

    Repacking fails if the width of a layer is not a multiple of the quantisation block (64), and repacked
    weights pass no gradient: training continues with wrong gradients (bitsandbytes 0.50, nn/modules.py,
    Linear4bit.forward; autograd/_functions.py, matmul_4bit).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _write_merged_base(path: str, model_config: trl.ModelConfig, train_args, auto_class) -> str:
    """Merge the adapter chain at `path` into `<output_dir>/base`, once, on rank 0; return the path.

    It is written aside and renamed: a run that is killed meanwhile leaves no half of it.
    """
    import numpy as np
    import torch

    target = Path(train_args.output_dir) / MERGED_BASE
    origin = {"adapter": path, "sha256": hash_file(Path(path) / "adapter_model.safetensors")}
    with train_args.main_process_first(local=False, desc="merging the parent's adapter"):
        if not _holds(target, origin):
            fresh = target.with_name(f"{target.name}.unfinished")
            for left in (fresh, target):
                shutil.rmtree(left, ignore_errors=True)
            options = {
                "dtype": "float32",
                "trust_remote_code": getattr(train_args, "trust_remote_code", False),
            }
            if auto_class.__name__ == "AutoModelForSequenceClassification":
                options["num_labels"] = 1
            with whole_parameters():
                merge_adapter(path, auto_class, **options).save_pretrained(fresh)
            load_tokenizer(path).save_pretrained(fresh)
            np.save(fresh / RANDOM_STATE, torch.get_rng_state().numpy())
            (fresh / MERGED_FROM).write_text(json.dumps(origin), encoding="utf-8")
            write_manifest(fresh)
            fresh.rename(target)
        # Merging draws random numbers: a new adapter starts from the same ones where the base is merged and where
        # it was merged before.
        torch.set_rng_state(torch.from_numpy(np.load(target / RANDOM_STATE)))
    return str(target)


def _holds(target: Path, origin: dict) -> bool:
    if find_damage(target):
        return False
    return json.loads((target / MERGED_FROM).read_text(encoding="utf-8")) == origin


@contextmanager
def whole_parameters():
    """Let `from_pretrained` load unsharded weights under ZeRO-3, and after it in the same process.

    Without this, each rank would load its shard. Merging and measuring need all values, on single ranks.
    """
    import transformers.integrations.deepspeed as integration

    config, integration._hf_deepspeed_config_weak_ref = integration._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = config
