"""Tokens as text: pieces give the text back, broken characters show, and lines keep their width."""

import pytest

from lifecycle_recipes.inspection.sequences import Sequence
from lifecycle_recipes.inspection.terminal import wide, wrap
from lifecycle_recipes.inspection.token_text import pieces, visible


@pytest.mark.parametrize(
    "word", ["naïve café", "水 and 火", "\N{GRINNING FACE}\N{PILE OF POO}!", " a\tb\n\n c", "a\x00b"]
)
def test_pieces_give_the_text_back(tiny_tokenizer, word):
    ids = tiny_tokenizer(f"<|im_start|>{word}<|im_end|>", add_special_tokens=False)["input_ids"]
    found = pieces(tiny_tokenizer, Sequence("", ids, [False] * len(ids)))
    assert "".join(p.text for p in found) == f"<|im_start|>{word}<|im_end|>"
    assert [i for p in found for i in p.ids] == ids
    assert [p.text for p in found if p.special] == ["<|im_start|>", "<|im_end|>"]


def test_a_character_that_is_cut_through_is_shown_as_broken(tiny_tokenizer):
    ids = tiny_tokenizer("\N{GRINNING FACE}", add_special_tokens=False)["input_ids"]
    found = pieces(tiny_tokenizer, Sequence("", ids[:2], [False, True], cut=ids[2:]))
    assert [p.state for p in found] == ["masked", "trained", "cut"]
    assert {"\N{REPLACEMENT CHARACTER}"} == set("".join(p.text for p in found))


def test_lines_are_cut_at_their_width():
    cells = [(c, "") for c in "水水水abc\nd"]
    assert ["".join(c for c, _ in line) for line in wrap(cells, 4)] == ["水水", "水ab", "c", "d"]
    assert wide("é") == 1 and visible("a\tb\r\n") == "a⇥b\\x0d↵\n"
