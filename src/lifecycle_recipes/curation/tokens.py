"""Tokens and bytes of every document, by which the ledger and the mixture count. No torch.

A step as documents.py describes, that leaves nothing out and stands in no recipe: curation itself adds it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from ..finding import refuse
from ..record.parents import hash_file, is_local

SCORED = ("tokenizer",)
PACKAGES = ("tokenizers", "transformers")
# Without a tokenizer: words and single punctuation marks, about the pieces into which a tokenizer splits first.
_PIECE = re.compile(r"\w+|[^\w\s]")


@dataclass
class Tokens:
    """tokenizer: a directory or Hub id; None counts words and punctuation marks."""

    tokenizer: str | None = None


def unit(settings: Tokens) -> str:
    """What is counted, for the ledger."""
    return f"tokens of {settings.tokenizer}" if settings.tokenizer else "words and punctuation marks"


def scored_by(settings: Tokens) -> dict[str, str | None]:
    local = settings.tokenizer and is_local(settings.tokenizer)
    return {
        "tokenizer": settings.tokenizer,
        "file": hash_file(f"{settings.tokenizer}/tokenizer.json") if local else None,
    }


def score(texts: list[str], settings: Tokens) -> dict[str, list[int]]:
    if settings.tokenizer is None:
        tokens = [len(_PIECE.findall(text)) for text in texts]
    else:
        tokenizer = _load(settings.tokenizer)
        tokens = (
            [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
        )
    return {"tokens": tokens, "bytes": [len(text.encode("utf-8", "replace")) for text in texts]}


@functools.cache
def _load(name: str):
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers and tokenizers raise many kinds
        message = f"the tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}"
        fix = "correct curate.tokenizer, or download or copy its files again"
        raise refuse("tokenizer-unreadable", message, fix, name) from error
