"""A saved model, loaded to be used: what it continues, and how much room there is for a reply."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..finding import refuse
from ..models.config_file import longest_sequence
from ..models.quantised_base import quantisation_of
from ..quiet import quiet
from ..record.trained_stage import SILENT, stage_of

if TYPE_CHECKING:
    from ..models.saved import Saved


@dataclass(frozen=True)
class Loaded:
    """A model, and whether it answers messages (chat) or continues a text."""

    saved: Saved
    chat: bool

    def encode(self, messages: list[dict]) -> list[int]:
        """Token ids of what is continued: the rendered conversation, or the last text."""
        tokenizer = self.saved.tokenizer
        if not self.chat:
            return tokenizer(messages[-1]["content"])["input_ids"]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def room(self, length: int, wanted: int) -> int:
        """How many of the `wanted` new tokens fit after `length` tokens. Raises Refusal context-full if none does."""
        context = longest_sequence(self.saved.model.config.to_dict()) or length + wanted
        if length >= context:
            message = f"no room for a reply: the conversation has {length:,} tokens, the context {context:,}"
            raise refuse("context-full", message, "send a shorter message, or start a new conversation")
        return min(wanted, context - length)


def load(path: str) -> Loaded:
    """Raises Refusal: missing-model, missing-package, not-a-language-model, adapter-base-missing.

    Imports torch once the model is found. A QLoRA adapter in a directory is loaded on its 4-bit base, as in training.
    """
    stage = require_language_model(path)
    quiet()
    from ..models.saved import load_saved

    quantised = quantisation_of(path)
    if quantised and find_spec("bitsandbytes") is None:
        message = "the adapter was trained on a quantised base, which needs bitsandbytes"
        raise refuse("missing-package", message, "pip install bitsandbytes", path)
    try:
        saved = load_saved(path, quantised)
    except OSError as error:  # of a Hub id
        reason = " ".join(str(error).split())[:200]
        fix = "correct it, or allow the Hub with HF_HUB_OFFLINE=0"
        raise refuse("missing-model", f"it cannot be loaded: {reason}", fix, path) from error
    # The tokenizer of a base model may have a template for its children: it does not make it a chat model.
    return Loaded(saved, stage != "pretrain" and bool(saved.tokenizer.chat_template))


def require_language_model(path: str) -> str | None:
    """The stage that trained the model, if it generates text. No torch."""
    if path.endswith(".gguf") or (Path(path) / "model.gguf").is_file():
        message = "this is a GGUF file, for llama.cpp and Ollama"
        raise refuse("missing-model", message, "give the export itself, the directory above", path)
    stage = stage_of(path)
    if stage in SILENT:
        raise refuse("not-a-language-model", f"this is {SILENT[stage]}: it cannot generate text", where=path)
    return stage
