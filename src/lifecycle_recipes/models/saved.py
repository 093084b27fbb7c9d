"""A saved model, loaded for evaluation in the same way as a user would load it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finding import refuse
from ..record.parents import hash_weights
from .adapters import (
    adapter_base,
    adapter_has_head,
    base_revision,
    is_adapter,
    merge_adapter,
    require_adapter_base,
)
from .config_file import read_json
from .load import keep_4bit_layout, whole_parameters

if TYPE_CHECKING:
    import trl
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Saved:
    """A model in eval mode on its device, its tokenizer, and the path of both.

    revision: the commit that was read, or the requested revision if the local cache does not contain the
    commit; None for a directory.
    """

    path: str
    model: Any
    tokenizer: Any
    revision: str | None = None

    def set_aside(self) -> Saved | None:
        """This model in host memory, for a later measurement; None if it cannot be moved (4-bit on a GPU)."""
        if getattr(self.model, "is_quantized", False) and self.model.device.type != "cpu":
            return None
        self.model.to("cpu")
        return self

    def bring_back(self) -> Saved:
        """This model on the device to which `load_saved` would load it."""
        _place(self.model, default_device())
        return self


def load_saved(
    path: str, model_config: trl.ModelConfig | None = None, device=None, revision: str | None = None
) -> Saved:
    """Load a saved causal LM, or an adapter on its base, in the dtype in which it was saved.

    model_config: a trl.ModelConfig. Its quantisation is used, so that a QLoRA adapter is measured on the
    4-bit base that it was trained on; for a Hub id its revision is the default. device: by default the
    accelerator, if there is one. Raises Refusal if `path` is not a causal LM.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    _refuse_other_heads(path)
    revision = _revision(path, revision or getattr(model_config, "model_revision", None))
    tokenizer = AutoTokenizer.from_pretrained(path, **revision)
    with _loading():
        model = _load(path, AutoModelForCausalLM, _quantisation(model_config, device) | revision)
    if is_adapter(path) and (Path(path) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)  # PEFT keeps that of the base
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # used only to fill batches, and always masked
    return Saved(path, _place(model, device or default_device()), tokenizer, _commit(revision))


def load_reward(
    path: str, model_config: trl.ModelConfig | None = None, device=None, revision: str | None = None
) -> Saved:
    """Load a saved reward model. Raises Refusal no-reward-head if the save has no reward head.

    model_config, device, revision: as for `load_saved`.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    revision = _revision(path, revision or getattr(model_config, "model_revision", None))
    tokenizer = AutoTokenizer.from_pretrained(path, **revision)
    options: dict = {"num_labels": 1} | _quantisation(model_config, device) | revision
    with _loading():
        if is_adapter(path):
            model = _load(path, AutoModelForSequenceClassification, options)
            headless = not adapter_has_head(path)
        else:
            options["output_loading_info"] = True
            model, info = _load(path, AutoModelForSequenceClassification, options)
            headless = bool(info["missing_keys"])
    if headless:
        fix = "give a model of the reward stage"
        raise refuse("no-reward-head", "the model has no trained reward head", fix, path)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return Saved(path, _place(model, device or default_device()), tokenizer, _commit(revision))


def same_vocabulary(a: Saved, b: Saved) -> bool:
    """Whether a token id is the same token for both. Otherwise their distributions cannot be compared."""
    return a.tokenizer.get_vocab() == b.tokenizer.get_vocab()


def weights_id(path: str) -> list[str] | None:
    """Hashes of a local model's weights and its adapter's base; None for a Hub id."""
    if not Path(path).is_dir():
        return None
    return [
        hash_weights(place) or "" for place in (path, adapter_base(path)) if place and Path(place).is_dir()
    ]


def _load(path: str, auto_class, options: dict):
    """`auto_class.from_pretrained`; if `path` is an adapter, on its base."""
    if not is_adapter(path):
        return auto_class.from_pretrained(path, **{"dtype": "auto"} | options)
    from peft import PeftModel

    base = require_adapter_base(path)
    options |= base_revision(path, base)
    if is_adapter(base):  # two adapters of one name in a model would be one
        model = merge_adapter(base, auto_class, **{"dtype": "auto"} | options)
    else:
        model = auto_class.from_pretrained(base, **{"dtype": "auto"} | options)
    return PeftModel.from_pretrained(model, path)


def _revision(path: str, revision: str | None) -> dict:
    """The revision of an id, resolved once, so that tokenizer and weights are of the same known commit."""
    from transformers.utils import resolve_revision

    # A local directory has no revisions; the revision in the recipe belongs to the parent.
    return {} if Path(path).is_dir() else {"revision": resolve_revision(path, revision or "main")}


def _commit(revision: dict) -> str | None:
    given = revision.get("revision")
    return getattr(given, "resolved", given)


def _quantisation(model_config: trl.ModelConfig, device=None) -> dict:
    if model_config is None or not (model_config.load_in_4bit or model_config.load_in_8bit):
        return {}
    from trl import get_quantization_config

    # In another dtype, the same weights would be quantised to other 4-bit values.
    options = {"quantization_config": get_quantization_config(model_config), "dtype": model_config.dtype}
    return options | {"device_map": {"": device or default_device()}}


def _refuse_other_heads(path: str) -> None:
    if not Path(path).is_dir() or is_adapter(path):
        return
    config = read_json(path, "config.json")
    if not config:
        raise refuse(
            "missing-model", "the directory has no saved model", "train it, or correct the path", path
        )
    names = config.get("architectures") or []
    if any(name.endswith("ForSequenceClassification") for name in names):
        raise refuse(
            "not-a-language-model",
            "this is a reward model: it scores replies and cannot generate",
            "evaluate a policy, and set evaluate.reward_model to this model",
            path,
        )


def _place(model: PreTrainedModel, device):
    """`model` in eval mode on `device`; quantised weights are on it already, but for those of torchao."""
    if getattr(model, "is_quantized", False):
        keep_4bit_layout(model)
        if model.quantization_method == "torchao":
            model.to(device)
    else:
        model.to(device)
    return model.eval()


def default_device():
    """The accelerator if there is one, else the CPU."""
    import torch

    return (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    )


@contextmanager
def _loading():
    """Load unsharded weights, without progress bars."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with whole_parameters():
            yield
    finally:
        if bars:
            logging.enable_progress_bar()
