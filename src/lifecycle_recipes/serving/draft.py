"""Speculative decoding: a smaller model drafts tokens, the model itself accepts or replaces them.

Leviathan et al. 2023 (arXiv:2211.17192). The greedy reply is that of the model alone: the draft only decides how many
tokens each of its steps yields. `generate(assistant_model=...)` of transformers does it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..finding import refuse
from .model import load

if TYPE_CHECKING:
    import torch

    from ..models.saved import Saved


@dataclass
class Draft:
    """A draft model, and what it and the model that it drafts for did in the reply since `begin`.

    A step of the model yields one token of its own and the drafted ones that it accepts.
    """

    model: Any
    steps: int = 0
    drafted: int = 0

    def begin(self) -> None:
        self.steps = self.drafted = 0

    def accepted(self, tokens: int) -> float:
        """Share of the drafted tokens that were accepted, of a reply of `tokens`.

        Between 0 and 1: the last step may accept tokens beyond the end of the reply.
        """
        share = (tokens - self.steps) / self.drafted if self.drafted else 0.0
        return min(max(share, 0.0), 1.0)


def load_draft(path: str, saved: Saved, causal: Any) -> Draft:
    """The draft model at `path` for `causal`, the model of `saved`. Raises Refusal draft-differs; see `load`."""
    from ..models.saved import same_vocabulary

    other = load(path).saved
    if not same_vocabulary(saved, other):
        fix = "draft with a model that was trained with the same tokenizer"
        raise refuse("draft-differs", "the draft has another tokenizer", fix, path)
    draft = Draft(without_adapter_class(other.model))
    causal.register_forward_hook(lambda *_: _count(draft, "steps"))
    draft.model.register_forward_hook(lambda *_: _count(draft, "drafted"))
    return draft


def without_adapter_class(model: Any) -> Any:
    """The causal LM itself; of a PEFT model the base, which holds the adapter's layers."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def drafting(causal: Any, draft: Draft) -> None:
    """Let every `generate` of the model use the draft, and print how much of it was accepted."""
    alone = causal.generate

    def generate(**inputs: Any) -> Any:
        if streamer := inputs.get("streamer"):
            inputs["streamer"] = TokenByToken(streamer)
        draft.begin()
        start, length = time.monotonic(), inputs["input_ids"].shape[1]
        output = alone(**inputs, assistant_model=draft.model)
        tokens, seconds = output.shape[1] - length, time.monotonic() - start
        share = draft.accepted(tokens)
        line = f"{tokens} tokens, {tokens / seconds:.0f} tokens/s, {share:.0%} of the draft accepted"
        print(line, file=sys.stderr, flush=True)
        return output

    causal.generate = generate


class TokenByToken:
    """A streamer of `generate` that hands one token at a time on: a step with a draft yields several."""

    def __init__(self, streamer: Any):
        self.streamer = streamer
        self.is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self.is_prompt:
            self.is_prompt = False
            self.streamer.put(value)
            return
        for token in value.flatten():
            self.streamer.put(token[None])

    def end(self) -> None:
        self.streamer.end()


def _count(draft: Draft, what: str) -> None:
    setattr(draft, what, getattr(draft, what) + 1)
