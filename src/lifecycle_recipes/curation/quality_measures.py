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
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from .spam_measures import PITCHES, repeated_sentences, spam_measures
from .spam_measures import bare as bare_of_pitch

if TYPE_CHECKING:
    import numpy as np

# Gopher (Rae et al. 2021), table A1: the share of the most frequent n-gram, and of n-grams that occur before.
TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)

# Characters of the texts whose words are counted together: enough for arrays, and within the cache of a core.
BATCH = 2**17

_PARAGRAPHS, _LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")
_ELLIPSES, _BULLETS = ("...", "…"), ("•", "-")
# Marks that end a sentence (Unicode's property Sentence_Terminal, the scripts in wide use).
_TERMINAL = tuple(".!?‼⁇⁈⁉‽。．！？؟۔।॥።፧։܀᙮᠃᠉။၊។៕")
_AROUND = ".,;:!?\"'()[]{}<>*_`“”‘’«»…"

# What is known of a word, as bits: more than punctuation; with a letter; at the end of a sentence (C4 counts with
# nltk's punkt, which needs a download); and for spam: letters only, capitals only, an address, an amount of money,
# the first word of a pitch.
REAL, ALPHA, ENDS, PLAIN, CAPITALS, LINK, PRICE, PITCH, STOP = (1 << n for n in range(9))
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
        flags |= PITCH * ((word.lower() if bare is word else bare_of_pitch(word)) in PITCHES)
        return flags | STOP * (self._stop.get(bare.lower(), -1) + 1)


# The sections of the settings, and the measures that their rules need.
MEASURES = {
    "gopher": (
        "mean_word_length hashes_per_word ellipses_per_word bullet_lines ellipsis_lines alpha_words stop_words"
    ).split(),
    "gopher_repetition": [
        *(f"duplicate_{part}{what}" for part in ("paragraph", "line") for what in ("s", "_characters")),
        *(f"top_{n}_gram" for n in TOP),
        *(f"duplicate_{n}_gram" for n in DUPLICATE),
    ],
    "fineweb": ["line_punctuation", "short_lines", "repeated_line_characters", "newlines_per_word"],
    "c4": ["sentences", "lorem_ipsum", "curly_bracket"],
    "spam": (
        "capital_words exclamations_per_word repeated_sentences links_per_word prices_per_word pitches_per_100_words"
    ).split(),
}


def measure_texts(
    texts: Sequence[str], words: Words, sections: Collection[str], short_line: int
) -> Iterator[dict[str, Any]]:
    """The numbers of every text, of those that the sections need; shares are of 1.

    `words` is always among them. A text without a word measures 0 everywhere. short_line: characters up to which a
    line is short.
    """
    names = ["words", *(name for section in sections for name in MEASURES[section])]
    for some in _batches(texts):
        split = [split_words(text) for text in some]
        counted = iter(_count([one for one in split if one], words, "gopher_repetition" in sections))
        for text, own in zip(some, split, strict=True):
            if not own:
                yield dict.fromkeys(names, 0)
                continue
            found = _measures(text, own, next(counted), sections, short_line)
            yield {name: found[name] for name in names}


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts whose words are counted together: for short texts, an operation on an array costs more than its words."""
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if size >= BATCH:
            yield some
            some, size = [], 0
    if some:
        yield some


class Counts(NamedTuple):
    """How many words of one text are of each kind. characters: of the real ones. stop: different stop words.

    pitches: places of words that may begin a pitch. tops, duplicates: see _ngrams; None if they were not asked for.
    numbers, lengths: of the words.
    """

    real: int
    characters: int
    alpha: int
    ends: int
    plain: int
    capitals: int
    links: int
    prices: int
    stop: int
    pitches: list[int]
    tops: list[int] | None
    duplicates: list[int] | None
    numbers: np.ndarray
    lengths: np.ndarray


def _count(texts: list[list[str]], words: Words, ngrams: bool) -> list[Counts]:
    """The counts of texts of at least one word each."""
    import numpy as np

    if not texts:
        return []
    numbers, lengths, flags = words.of([word for text in texts for word in text])
    sizes = np.array([len(text) for text in texts])
    starts = np.cumsum(sizes) - sizes
    text = np.repeat(np.arange(len(texts)), sizes)
    kinds = [
        np.add.reduceat(flags & kind > 0, starts, dtype=np.int64).tolist()
        for kind in (REAL, ALPHA, ENDS, PLAIN, CAPITALS, LINK, PRICE)
    ]
    real, *others = kinds
    characters = np.add.reduceat(lengths * (flags & REAL > 0), starts).tolist()
    stop = flags // STOP
    is_stop = stop > 0
    pairs = np.unique(text[is_stop] * (int(stop.max()) + 1) + stop[is_stop])
    stops = np.bincount(pairs // (int(stop.max()) + 1), minlength=len(texts)).tolist()
    pitches: list[list[int]] = [[] for _ in texts]
    for place in np.flatnonzero(flags & PITCH).tolist():
        pitches[text[place]].append(place - int(starts[text[place]]))
    tops, duplicates = _ngrams(numbers, lengths, starts) if ngrams else ([None] * len(texts),) * 2
    arrays = [
        (numbers[a : a + n], lengths[a : a + n]) for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    return [
        Counts(*row[:-1], *row[-1])
        for row in zip(real, characters, *others, stops, pitches, tops, duplicates, arrays, strict=True)
    ]


def _measures(
    text: str, split: list[str], counts: Counts, sections: Collection[str], short_line: int
) -> dict[str, Any]:
    total, lower = len(split), text.lower()
    found: dict[str, Any] = {"words": counts.real}
    if "gopher" in sections:
        found |= {
            "mean_word_length": counts.characters / counts.real if counts.real else 0.0,
            "hashes_per_word": text.count("#") / total,
            "ellipses_per_word": (text.count("...") + text.count("…")) / total,
            **_lines(text),
            "alpha_words": counts.alpha / total,
            "stop_words": counts.stop,
        }
    if "gopher_repetition" in sections:
        found |= _repetition(text, counts)
    if "fineweb" in sections:
        found |= _fineweb(text, total, short_line)
    if "c4" in sections:
        found["sentences"] = counts.ends
        found["lorem_ipsum"] = int("lorem ipsum" in lower)
        found["curly_bracket"] = text.count("{")
    if "spam" in sections:
        found |= spam_measures(
            text,
            words=split,
            plain=counts.plain,
            capitals=counts.capitals,
            links=counts.links,
            prices=counts.prices,
            pitches=counts.pitches,
            repeated=_repeated_sentences(text, lower, counts),
        )
    return found


def _repeated_sentences(text: str, lower: str, counts: Counts) -> float:
    """See repeated_sentences; 0 for a text of which few words repeat. What is known, or found sooner, comes first."""
    import numpy as np

    if counts.duplicates is not None:
        return repeated_sentences(lower) if _is_repetitive(text, counts.duplicates) else 0.0
    share = repeated_sentences(lower)
    if share and not _is_repetitive(text, _ngrams(counts.numbers, counts.lengths, np.zeros(1, int))[1][0]):
        return 0.0
    return share


def _is_repetitive(text: str, duplicates: list[int]) -> bool:
    return duplicates[DUPLICATE.index(5)] / len(text) > 0.1


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


def _repetition(text: str, counts: Counts) -> dict[str, float]:
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
    found |= {f"top_{n}_gram": top / size for n, top in zip(TOP, counts.tops, strict=True)}
    return found | {
        f"duplicate_{n}_gram": d / size for n, d in zip(DUPLICATE, counts.duplicates, strict=True)
    }


def _ngrams(
    numbers: np.ndarray, lengths: np.ndarray, starts: np.ndarray
) -> tuple[list[list[int]], list[list[int]]]:
    """Of every text, the characters in its most frequent n-gram for every n of TOP, and for every n of DUPLICATE those
    in n-grams that occur before. starts: of the texts in the words, which are given by their numbers and lengths.

    An n-gram that occurs twice begins with an (n-1)-gram that does, so that each n looks only at the places that
    n-1 left: after n = 3 those are few in most texts.
    """
    import numpy as np

    sizes = np.diff(np.append(starts, len(numbers)))
    text = np.repeat(np.arange(len(starts)), sizes)
    end = np.repeat(starts + sizes, sizes)
    tops = [[0] * len(TOP) for _ in starts]
    duplicates = [[0] * len(DUPLICATE) for _ in starts]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    different = int(numbers.max()) + 1
    # Places that may begin a repeated n-gram, and a number for the (n-1)-gram of this text at every place.
    at, grams = np.arange(len(numbers)), text * different + numbers
    for n in range(2, DUPLICATE[-1] + 1):
        keep = at + n <= end[at]
        at, grams = at[keep], grams[keep]
        if not len(at):
            break
        # Equal if and only if the first n-1 words and the last one are equal.
        keys = grams * different + numbers[at + n - 1]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        firsts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        counts = np.diff(np.append(firsts, len(ordered)))
        if counts.max() == 1:
            break
        group = np.empty(len(at), np.int64)
        group[order] = np.repeat(np.arange(len(firsts)), counts)
        if n in TOP:
            several = counts > 1
            place, count = at[order[firsts[several]]], counts[several]
            # Of several with the same count, the one that occurs first.
            best = np.lexsort((place, -count, text[place]))
            place, count = place[best], count[best]
            place, count = (a[np.append(True, np.diff(text[place]) > 0)] for a in (place, count))
            # With the blanks between its words.
            characters = (ends[place + n] - ends[place] + n - 1) * count
            for one, top in zip(text[place].tolist(), characters.tolist(), strict=True):
                tops[one][TOP.index(n)] = top
        repeated = counts[group] > 1
        at, grams = at[repeated], group[repeated]
        if n in DUPLICATE:
            columns = (a.tolist() for a in (at, grams, ends[at + n] - ends[at], text[at]))
            for one, size in _duplicated(*columns, n):
                duplicates[one][DUPLICATE.index(n)] += size
    return tops, duplicates


def _duplicated(
    places: list[int], grams: list[int], sizes: list[int], texts: list[int], n: int
) -> Iterator[tuple[int, int]]:
    """(text, characters) of repeated n-grams; from one that occurred before, the next n - 1 places are passed over."""
    seen: set[int] = set()
    free = 0
    for place, gram, size, text in zip(places, grams, sizes, texts, strict=True):
        if place < free:
            continue
        if gram in seen:
            yield text, size
            free = place + n
        else:
            seen.add(gram)


def _fineweb(text: str, words: int, short_line: int) -> dict[str, float]:
    """FineWeb's own rules (Penedo et al. 2024, section 3.6)."""
    lines = [line for line in text.split("\n") if line.strip()]
    return {
        "line_punctuation": sum([line.endswith(_TERMINAL) for line in lines]) / len(lines),
        "short_lines": sum([len(line) <= short_line for line in lines]) / len(lines),
        "repeated_line_characters": _repeated(lines)[1] / (len(text) - text.count("\n")),
        "newlines_per_word": text.count("\n") / words,
    }
