"""Tokens as text for display: control tokens are visible, and nothing can control the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sequences import Sequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The states of a token, and how they are shown.
STATES = {
    "trained": "supervised",
    "masked": "not supervised",
    "cut": "truncated",
    "scored": "the reward is read here",
}


@dataclass(frozen=True)
class Piece:
    """Text of one token, or of several that share a character. state: a key of STATES.

    opens: a document starts here. special: a control token.
    """

    text: str
    ids: tuple[int, ...]
    state: str
    special: bool = False
    opens: bool = False


def pieces(tokenizer: PreTrainedTokenizerBase, sequence: Sequence) -> list[Piece]:
    """The sequence in pieces, with the truncated tokens in their original place."""
    states = ["trained" if trained else "masked" for trained in sequence.trained]
    if sequence.scored and states:
        states[-1] = "scored"
    starts = set(sequence.starts)
    ids, front = sequence.ids, 0
    if sequence.cut and sequence.cut_at == "front":
        ids, states, front = sequence.cut + ids, ["cut"] * len(sequence.cut) + states, len(sequence.cut)
    elif sequence.cut:
        ids, states = ids + sequence.cut, states + ["cut"] * len(sequence.cut)
    special = special_ids(tokenizer)
    found = []
    for first, last, text in split_text(tokenizer, ids, states, special):
        opens = first - front in starts and bool(first - front)
        found.append(Piece(text, tuple(ids[first:last]), states[first], ids[first] in special, opens))
    return found


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """All ids of control tokens, including those without a name in the tokenizer."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def split_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], states: list[str], special: set[int]):
    """(first, last, text) of each piece; tokens that share a character with the next one are joined to it.

    The text of a token can depend on the token before it (a leading space in SentencePiece). So the text of a
    piece is the difference between the decoded text with it and without it.
    """
    before, first = 0, 0
    for last in range(1, len(ids) + 1):
        if ids[last - 1] in special:
            if first < last - 1:  # an incomplete character
                yield (
                    first,
                    last - 1,
                    tokenizer.decode(ids[first : last - 1], clean_up_tokenization_spaces=False),
                )
            yield last - 1, last, tokenizer.convert_ids_to_tokens(ids[last - 1])
            before = first = last
            continue
        old = tokenizer.decode(ids[before:first], clean_up_tokenization_spaces=False)
        new = tokenizer.decode(ids[before:last], clean_up_tokenization_spaces=False)
        ends = last == len(ids) or states[last] != states[last - 1]
        if new.endswith("\N{REPLACEMENT CHARACTER}") and not ends:
            continue
        yield (
            first,
            last,
            new[len(old) :]
            if new.startswith(old)
            else tokenizer.decode(ids[first:last], clean_up_tokenization_spaces=False),
        )
        before, first = first, last


def visible(text: str) -> str:
    """Text with a mark for every line break, and with control characters as escapes."""
    return "".join(_SHOWN.get(c) or (c if c.isprintable() else _escape(c)) for c in text)


_SHOWN = {"\n": "↵\n", "\t": "⇥"}


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) > 0xFF else f"\\x{ord(character):02x}"
