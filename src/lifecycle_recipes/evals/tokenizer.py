"""Metrics of a tokenizer on held-out text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..quiet import tokenizers_in_parallel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@tokenizers_in_parallel()
def measure_tokenizer(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> dict[str, float]:
    """bytes_per_token, unknown_rate (share of tokens) and round_trip (share of texts decoded unchanged)."""
    texts = list(texts)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens = sum(map(len, ids))
    unknown = sum(row.count(tokenizer.unk_token_id) for row in ids) if tokenizer.unk_token else 0
    same = sum(tokenizer.decode(row) == text for row, text in zip(ids, texts, strict=True))
    return {
        "bytes_per_token": sum(len(t.encode()) for t in texts) / max(tokens, 1),
        "unknown_rate": unknown / max(tokens, 1),
        "round_trip": same / max(len(texts), 1),
        "vocab_size": len(tokenizer),
    }
