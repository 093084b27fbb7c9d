"""The special tokens of a tokenizer: of one that is trained here, and before a document. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..finding import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL_TOKENS = ("<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
BYTES = 256  # one token each, so that any text can be encoded


def check_vocabulary(special_tokens: list[str], vocab_size: int, key: str = "vocab_size") -> None:
    """Raises Refusal: missing-special-token, vocab-too-small. key: of the size, in the section `tokenizer`."""
    if missing := [token for token in SPECIAL_TOKENS[:2] if token not in special_tokens]:
        raise refuse(
            "missing-special-token", f"special_tokens lacks {', '.join(missing)}", "add the missing tokens"
        )
    if vocab_size < (least := BYTES + len(special_tokens)):
        raise refuse(
            "vocab-too-small",
            f"{key} {vocab_size} is too small for the 256 bytes and the special tokens",
            f"set tokenizer.{key} to {least} or more",
        )


def document_start(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before the first token of a document: the separator of documents in pretraining.

    In fine-tuning, EOS (and SmolLM2's BOS) becomes a chat token, which never precedes a document. With
    lm-eval's default, the bits per byte of base model and assistant would not be comparable.
    """
    separator = tokenizer.get_vocab().get("<|endoftext|>")
    if separator is not None:
        return separator
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
