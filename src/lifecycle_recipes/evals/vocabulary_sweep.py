"""What another vocabulary size would give: measures of tokenizers of several sizes on the same text."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ..data.config import LANGUAGE
from ..data.provenance import ROW

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A token seen fewer times has a row of the embedding that is hardly trained.
RARE = 10

Words = Counter[str]


def sweep(
    tokenizers: dict[int, Tokenizer],
    texts: Iterable[str],
    groups: dict[tuple[str, str], Iterable[str]],
    special_tokens: list[str],
    hidden_size: int | None = None,
) -> list[dict[str, Any]]:
    """A row of measures per tokenizer, in the order given; sizes that the text does not fill are one row.

    tokenizers: size that was asked for -> tokenizer.

    All of them split a text at the same places, and encode the parts one by one: so the text is split once, and
    each different part is encoded once per tokenizer.

    texts: the training text, for `rare_tokens`: the share of the vocabulary, without the special tokens, that is
    used fewer than RARE times in it. groups: (source, language) -> held-out texts; an empty language is unknown.
    hidden_size: of the model whose embedding is counted (one matrix; an untied head is as large again).
    """
    first = next(iter(tokenizers.values()))
    trained = count_words(first, texts, special_tokens)
    held_out = {group: list(texts) for group, texts in groups.items()}
    sizes = {group: sum(len(text.encode()) for text in texts) for group, texts in held_out.items()}
    words = {group: count_words(first, texts, special_tokens) for group, texts in held_out.items()}
    asked: dict[int, list[int]] = {}
    for size, tokenizer in tokenizers.items():
        asked.setdefault(tokenizer.get_vocab_size(), []).append(size)
    return [
        {"asked": same} | _measure(tokenizers[same[0]], trained, words, sizes, special_tokens, hidden_size)
        for same in asked.values()
    ]


def _measure(
    tokenizer: Tokenizer,
    trained: Words,
    words: dict[tuple[str, str], Words],
    sizes: dict[tuple[str, str], int],
    special_tokens: list[str],
    hidden_size: int | None,
) -> dict[str, Any]:
    known: dict[str, list[int]] = {token: [tokenizer.token_to_id(token)] for token in special_tokens}

    def ids_of(word: str) -> list[int]:
        if word not in known:
            known[word] = [token.id for token in tokenizer.model.tokenize(word)]
        return known[word]

    vocabulary = tokenizer.get_vocab_size()
    uses: Counter[int] = Counter()
    for word, times in trained.items():
        for token in ids_of(word):
            uses[token] += times
    special = {tokenizer.token_to_id(token) for token in special_tokens}
    learnt = [token for token in range(vocabulary) if token not in special]
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown = None if unknown is None else tokenizer.token_to_id(unknown)
    tokens: Counter[tuple[str, str]] = Counter()
    unknowns = 0
    for group, counted in words.items():
        for word, times in counted.items():
            ids = ids_of(word)
            tokens[group] += times * len(ids)
            unknowns += times * ids.count(unknown)

    def per_token(place: int | None = None) -> dict[str, float]:
        """Bytes per token by source (place 0) or language (place 1)."""
        names = sorted({group[place] for group in words if group[place]})
        return {
            name: sum(sizes[g] for g in words if g[place] == name)
            / max(sum(tokens[g] for g in words if g[place] == name), 1)
            for name in names
        }

    row = {
        "vocab_size": vocabulary,
        "bytes_per_token": sum(sizes.values()) / max(tokens.total(), 1),
        "sources": per_token(0),
        "languages": per_token(1),
        "rare_tokens": sum(uses[token] < RARE for token in learnt) / max(len(learnt), 1),
        "unknown_rate": unknowns / max(tokens.total(), 1),
    }
    return row | ({"embedding_parameters": vocabulary * hidden_size} if hidden_size else {})


def count_words(tokenizer: Tokenizer, texts: Iterable[str], special_tokens: list[str]) -> Words:
    """How often each part occurs into which `texts` are split before they are encoded; control tokens are whole."""
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    # The longest first, as the tokenizer itself matches them.
    control = re.compile(f"({'|'.join(map(re.escape, sorted(special_tokens, key=len, reverse=True)))})")
    found: Words = Counter()
    for text in texts:
        for place, part in enumerate(control.split(text)):
            if place % 2:
                found[part] += 1
            elif part:
                found.update([word for word, _ in split(part)])
    return found


def group_rows(rows: Any, column: str, ledger: dict) -> dict[tuple[str, str], list[str]]:
    """(path of the source, language) -> texts of `rows`, which have row numbers. ledger: of `load_data`."""
    sources = ledger["sources"]
    ends = list(accumulate(source["rows"] for source in sources))
    # A column of numbers or lists is no language.
    languages = rows[LANGUAGE] if LANGUAGE in rows.column_names else [""] * len(rows)
    found: dict[tuple[str, str], list[str]] = {}
    for text, number, language in zip(rows[column], rows[ROW], languages, strict=True):
        group = sources[bisect_right(ends, number)]["path"], language if isinstance(language, str) else ""
        found.setdefault(group, []).append(text)
    return found
