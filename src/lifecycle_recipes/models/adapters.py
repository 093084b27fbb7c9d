"""LoRA from a recipe, and the chain of adapters: a new adapter never drops the one it starts from."""

import json
import warnings
from pathlib import Path

from ..finding import refuse
from .lora_targets import is_plain_name

ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(path: str) -> bool:
    """Whether a local directory holds a PEFT adapter."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def peft_config(model_config):
    """The `peft.LoraConfig` of a `trl.ModelConfig`, or None without `use_peft`.

    Without `lora_target_modules` every linear layer gets an adapter but the output head ("all-linear"), as in
    QLoRA; PEFT's own default is the attention's q and v only. Raises Refusal for `lora_*` or `load_in_*`
    keys without `use_peft`: they would silently give a full fine-tune.
    """
    from dataclasses import fields

    from trl import get_peft_config

    if model_config.use_peft:
        config = get_peft_config(model_config)
        if config.target_modules is None and config.target_parameters is None:
            config.target_modules = "all-linear"
        # Saved with the adapter: without it the base would be read from the Hub's `main` ever after.
        if model_config.model_revision != "main" and not is_local(model_config.model_name_or_path):
            config.revision = model_config.model_revision
        if is_plain_name(config.target_modules):
            config.target_modules = [config.target_modules]
        # Without it PEFT trains a copy of a tied input embedding only and leaves the output head as it was:
        # tokens that the base never saw could not be told apart (huggingface/peft#2777).
        config.ensure_weight_tying = _trains_embeddings(config)
        warnings.filterwarnings("ignore", ".*ensure_weight_tying.*no tied modules were found")
        return config
    changed = [
        f.name
        for f in fields(model_config)
        if f.name.startswith(("lora_", "use_rslora", "use_dora", "load_in_", "bnb_", "use_bnb_"))
        and getattr(model_config, f.name) != f.default
        # The task type describes the head, not an adapter.
        and f.name != "lora_task_type"
    ]
    if changed:
        raise refuse(
            "lora-without-peft",
            f"model.{', model.'.join(changed)} set without model.use_peft: the run would train every weight",
            "add `use_peft: true`, or remove these keys",
        )
    return None


def _trains_embeddings(config) -> bool:
    named = [*(config.modules_to_save or [])]
    if not isinstance(config.target_modules, str):
        named += config.target_modules or []
    return any(name.split(".")[-1] in ("embed_tokens", "lm_head") for name in named)


def merge_adapter(path: str, auto_class, **load_options):
    """The model of an adapter directory with its whole chain merged in, in full precision, on the CPU or GPU.

    Raises Refusal where the base that the adapter was trained on is gone.
    """
    from peft import PeftModel

    base = json.loads((Path(path) / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    # A run that was moved still has its merged base beside its adapter (models/load.py).
    if is_local(base) and not Path(base).is_dir() and (Path(path) / "base").is_dir():
        base = str(Path(path) / "base")
    if is_local(base) and not Path(base).is_dir():
        raise refuse(
            "adapter-base-missing",
            f"the adapter was trained on {base}, which does not exist",
            "train the base again, or correct base_model_name_or_path in adapter_config.json",
            path,
        )
    if is_adapter(base):
        model = merge_adapter(base, auto_class, **load_options)
    else:
        model = auto_class.from_pretrained(base, **load_options, **base_revision(path, base))
    return PeftModel.from_pretrained(model, path).merge_and_unload()


def base_revision(path: str, base: str) -> dict[str, str]:
    """`{"revision": ...}` that the adapter at `path` was trained on; {} for a base that is a directory."""
    revision = json.loads((Path(path) / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("revision")
    return {"revision": revision} if revision and not is_local(base) else {}


def is_local(path: str) -> bool:
    """Whether a model path means a directory here; an id on the Hub has one slash at most."""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1
