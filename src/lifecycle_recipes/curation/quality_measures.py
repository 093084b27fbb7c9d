"""What the quality rules of Gopher, C4 and FineWeb measure, as numbers. No torch.

Words are what stands between blanks, with their punctuation. The published thresholds belong to this choice: the
rule that 80 % of the words have a letter removes 8 % of ordinary pages with these words, and 88 % with a tokenizer
that makes every punctuation mark a word. Where a rule needs the bare word (stop words), the punctuation around it
is stripped. A language that is written without blanks needs other thresholds.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from .spam_measures import spam_measures

if TYPE_CHECKING:
    import numpy as np

# Gopher (Rae et al. 2021), table A1: the share of the most frequent n-gram, and of n-grams that occur before.
TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)

_PARAGRAPHS, _LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")
_ELLIPSES, _BULLETS = ("...", "…"), ("•", "-")
# Marks that end a sentence (Unicode's property Sentence_Terminal, the scripts in wide use).
_TERMINAL = tuple(".!?‼⁇⁈⁉‽。．！？؟۔।॥።፧։܀᙮᠃᠉။၊។៕")
_AROUND = ".,;:!?\"'()[]{}<>*_`“”‘’«»…"

# What is known of a word, as bits: more than punctuation; with a letter; at the end of a sentence (C4 counts with
# nltk's punkt, which needs a download); and for spam: letters only, capitals only, an address, an amount of money.
REAL, ALPHA, ENDS, PLAIN, CAPITALS, LINK, PRICE, STOP = (1 << n for n in range(8))
_LETTER = re.compile(r"[^\W\d_]")
# Punctuation as datatrove sees it: an emoji or a bullet is a word.
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~\x7f-\x9f´«»–—‘’“”„…∶━►、。〈-】！-／：-＠［-｀｛-～]+")
_ENDS, _CLOSING = tuple(".!?。！？…"), "\"'”’)]»"
_LINK = re.compile(
    r"https?://|www\.\w|[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|biz|info|shop|xyz|top|click|example)\b(?!@)"
)
_PRICE = re.compile(r"[$€£]\d|\d[€£]|\d\$$|^\$\$|^(?:USD|EUR|GBP)$")


def split_words(text: str) -> list[str]:
    """The words of a text, as all rules of quality count them."""
    return text.split()


class Words:
    """Numbers for the words of many texts, so that each different word is looked at once."""

    def __init__(self, stop_words: Iterable[str]):
        self._stop = {word.lower(): n for n, word in enumerate(stop_words)}
        self._numbers: defaultdict[str, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__
        self._lengths, self._flags = array("q"), array("q")

    def of(self, words: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(number, length, flags) of every word; there must be one."""
        import numpy as np

        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        # New words are the last ones of the dictionary.
        for word in [*islice(reversed(self._numbers), len(self._numbers) - len(self._flags))][::-1]:
            self._lengths.append(len(word))
            self._flags.append(self._look_at(word))
        # The views are let go at once: an array with a view cannot grow.
        lengths, flags = (np.frombuffer(a, np.int64)[numbers] for a in (self._lengths, self._flags))
        return numbers, lengths, flags

    def _look_at(self, word: str) -> int:
        """ALPHA and the like, and from STOP on the number of the stop word plus 1."""
        if word.isalpha():
            bare, flags = word, REAL | ALPHA
        else:
            bare = word.strip(_AROUND)
            flags = REAL | ALPHA if _LETTER.search(word) else REAL * (not _PUNCTUATION.fullmatch(word))
            flags |= ENDS * word.rstrip(_CLOSING).endswith(_ENDS)
            if "." in bare or "://" in bare:
                flags |= LINK * bool(_LINK.match(bare.lower()))
            flags |= PRICE * bool(_PRICE.search(word))
        if len(bare) > 1 and bare.replace("'", "").isalpha():
            flags |= PLAIN | CAPITALS * bare.isupper()
        return flags | STOP * (self._stop.get(bare.lower(), -1) + 1)


def measures(text: str, words: Words, short_line: int) -> dict[str, Any]:
    """The numbers of one text; shares are of 1. A text without a word measures 0 everywhere.

    short_line: characters up to which a line is short.
    """
    split = split_words(text)
    if not split:
        return dict.fromkeys(columns(), 0)
    numbers, lengths, flags = words.of(split)
    total = len(split)
    real = _count(flags & REAL)
    stop = flags // STOP
    lower = text.lower()
    repetition = _repetition(text, numbers, lengths)
    return {
        "words": real,
        "mean_word_length": float(lengths[flags & REAL > 0].mean()) if real else 0.0,
        "hashes_per_word": text.count("#") / total,
        "ellipses_per_word": (text.count("...") + text.count("…")) / total,
        **_lines(text),
        "alpha_words": _count(flags & ALPHA) / total,
        "stop_words": len(set(stop[stop > 0].tolist())),
        **repetition,
        **_fineweb(text, total, short_line),
        "sentences": _count(flags & ENDS),
        "lorem_ipsum": int("lorem ipsum" in lower),
        "curly_bracket": text.count("{"),
        **spam_measures(
            text,
            lower,
            words=total,
            plain=_count(flags & PLAIN),
            capitals=_count(flags & CAPITALS),
            links=_count(flags & LINK),
            prices=_count(flags & PRICE),
            repetitive=repetition["duplicate_5_gram"] > 0.1,
        ),
    }


def _count(flags: np.ndarray) -> int:
    import numpy as np

    return int(np.count_nonzero(flags))


@cache
def columns() -> tuple[str, ...]:
    """The names of the measures."""
    return tuple(measures("word", Words(()), 0))


def _lines(text: str) -> dict[str, float]:
    lines = [line.strip() for line in text.splitlines()]
    return {
        "bullet_lines": sum([line.startswith(_BULLETS) for line in lines]) / len(lines),
        "ellipsis_lines": sum([line.endswith(_ELLIPSES) for line in lines]) / len(lines),
    }


def _repeated(parts: list[str]) -> tuple[int, int]:
    """(how many parts are equal to an earlier one, their characters)."""
    once = set(parts)
    return len(parts) - len(once), sum(map(len, parts)) - sum(map(len, once))


def _repetition(text: str, numbers: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Gopher's repetition rules (Rae et al. 2021, section A1.1).

    Unlike datatrove, an n-gram that occurs once is no repetition: otherwise 20 different words have a top 4-gram
    of 20 %. For texts of 50 words and more the verdicts are the same.
    """
    size = len(text)
    paragraphs = _PARAGRAPHS.split(text.strip())
    lines = _LINES.split(text)
    found: dict[str, float] = {}
    for name, parts in (("paragraph", paragraphs), ("line", lines)):
        count, characters = _repeated(parts)
        found[f"duplicate_{name}s"] = count / len(parts)
        found[f"duplicate_{name}_characters"] = characters / size
    tops, duplicates = _ngrams(numbers, lengths)
    found |= {f"top_{n}_gram": top / size for n, top in zip(TOP, tops, strict=True)}
    return found | {f"duplicate_{n}_gram": d / size for n, d in zip(DUPLICATE, duplicates, strict=True)}


def _ngrams(numbers: np.ndarray, lengths: np.ndarray) -> tuple[list[int], list[int]]:
    """(characters in the most frequent n-gram, for every n of TOP; in n-grams that occur before, of DUPLICATE).

    An n-gram that occurs twice begins with an (n-1)-gram that does, so that each n looks only at the places that
    n-1 left: after n = 3 those are few in most texts.
    """
    import numpy as np

    tops, duplicates = [0] * len(TOP), [0] * len(DUPLICATE)
    total = len(numbers)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    # Places that may begin a repeated n-gram, and a number for the (n-1)-gram at every place.
    at, grams = np.arange(total), numbers
    for n in range(2, DUPLICATE[-1] + 1):
        keep = at + n <= total
        at, grams = at[keep], grams[keep]
        if not len(at):
            break
        # Equal if and only if the first n-1 words and the last one are equal.
        keys = grams * (int(numbers.max()) + 1) + numbers[at + n - 1]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        counts = np.diff(np.concatenate([starts, [len(ordered)]]))
        if counts.max() == 1:
            break
        group = np.empty(len(at), np.int64)
        group[order] = np.repeat(np.arange(len(starts)), counts)
        if n in TOP:
            # Of several with the same count, the one that occurs first.
            first = order[starts[counts == counts.max()]].min()
            place = at[first]
            # With the blanks between its words.
            characters = ends[place + n] - ends[place] + n - 1
            tops[TOP.index(n)] = int(characters * counts.max())
        repeated = counts[group] > 1
        at, grams = at[repeated], group[repeated]
        if n in DUPLICATE:
            sizes = ends[at + n] - ends[at]
            duplicates[DUPLICATE.index(n)] = _duplicated(at.tolist(), grams.tolist(), sizes.tolist(), n)
    return tops, duplicates


def _duplicated(places: list[int], grams: list[int], sizes: list[int], n: int) -> int:
    """Characters of repeated n-grams; from one that occurred before, the next n - 1 places are passed over."""
    seen: set[int] = set()
    free = characters = 0
    for place, gram, size in zip(places, grams, sizes, strict=True):
        if place < free:
            continue
        if gram in seen:
            characters += size
            free = place + n
        else:
            seen.add(gram)
    return characters


def _fineweb(text: str, words: int, short_line: int) -> dict[str, float]:
    """FineWeb's own rules (Penedo et al. 2024, section 3.6)."""
    lines = [line for line in text.split("\n") if line.strip()]
    return {
        "line_punctuation": sum([line.endswith(_TERMINAL) for line in lines]) / len(lines),
        "short_lines": sum([len(line) <= short_line for line in lines]) / len(lines),
        "repeated_line_characters": _repeated(lines)[1] / (len(text) - text.count("\n")),
        "newlines_per_word": text.count("\n") / words,
    }
