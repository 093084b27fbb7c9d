"""The special tokens of a tokenizer that is trained here, and the smallest vocabulary for them. No torch."""

from ..finding import refuse

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
