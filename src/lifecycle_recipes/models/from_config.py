"""A causal LM from a config section, with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..finding import Refusal, refuse
from .config_keys import FROM_TOKENIZER, find_in_keys, unknown_model_type

if TYPE_CHECKING:
    import trl
    from transformers import PreTrainedTokenizerBase


@dataclass
class Architecture:
    """A model with random weights. model_type: as in transformers (`llama`, `qwen3`, ...).

    config: keys of that model's config class; vocabulary size and special ids come from the tokenizer.
    tokenizer: the run directory of the tokenizer, or a Hub id with tokenizer_revision.
    """

    model_type: str
    tokenizer: str
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer_revision: str | None = None


def start_model(architecture: Architecture | None, model_config: trl.ModelConfig, train_args) -> tuple:
    """(tokenizer, causal LM) that pretraining starts from: a saved model, else a random `architecture`.

    model_config: a `trl.ModelConfig`, or None without a `model` section.
    """
    from .load import load_causal_lm, load_tokenizer

    if path := model_config and model_config.model_name_or_path:
        return load_tokenizer(path, model_config.model_revision), load_causal_lm(model_config, train_args)
    tokenizer = load_tokenizer(architecture.tokenizer, architecture.tokenizer_revision or "main")
    return tokenizer, build_causal_lm(architecture, tokenizer, model_config)


def build_causal_lm(
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerBase,
    model_config: trl.ModelConfig | None = None,
):
    """Random weights for `architecture` (model_type and config), with the tokenizer's vocabulary.

    model_config: a `trl.ModelConfig` whose attn_implementation is used, or None. The weights are float32;
    train.bf16 computes in bfloat16. Raises Refusal: unknown-model-type, unknown-config-key, bad-config.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = architecture.model_type
    if kind not in CONFIG_MAPPING:
        raise Refusal(unknown_model_type(kind, list(CONFIG_MAPPING)))
    config_class = CONFIG_MAPPING[kind]
    known = [f.name for f in fields(config_class) if f.init]
    if findings := find_in_keys(config_class.__name__, known, architecture.config):
        raise Refusal(*findings.values())
    special = {key: getattr(tokenizer, key) for key in FROM_TOKENIZER[1:]}
    try:
        config = config_class(**architecture.config, **special, vocab_size=len(tokenizer))
        options = {"attn_implementation": model_config.attn_implementation} if model_config else {}
        return AutoModelForCausalLM.from_config(config, **options)
    except (StrictDataclassError, TypeError, ValueError) as error:
        message = str(error.__cause__ or error).strip().splitlines()[0]
        raise refuse("bad-config", f"architecture.config: {message}", "correct the value") from error
