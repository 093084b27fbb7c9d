"""Speculative decoding: a smaller model drafts tokens, the model itself accepts or replaces them.

Leviathan et al. 2023 (arXiv:2211.17192). The greedy reply is that of the model alone: the draft only decides how many
tokens each of its steps yields. `generate(assistant_model=...)` of transformers does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..finding import refuse
from .model import load

if TYPE_CHECKING:
    from ..models.saved import Saved


@dataclass
class Draft:
    """A draft model, and what it and the model that it drafts for did since the last `accepted`.

    A step of the model yields one token of its own and the drafted ones that it accepts.
    """

    model: Any
    steps: int = 0
    drafted: int = 0

    def accepted(self, tokens: int) -> float:
        """Share of the drafted tokens that were accepted, of `tokens` new tokens; begins to count anew."""
        share = (tokens - self.steps) / self.drafted if self.drafted else 0.0
        self.steps = self.drafted = 0
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


def _count(draft: Draft, what: str) -> None:
    setattr(draft, what, getattr(draft, what) + 1)
