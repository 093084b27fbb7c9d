"""Evaluation items in the training data: found, and left out or cut out.

A document and an item are compared if they have a run of words in common (`ngram` words, or SEED in an item of fewer
than 8 times `ngram`). The comparison aligns the item with the passage around the run and weighs what is there, in
order: the coverage is the share of the item's information, and of the information that only this item has, whichever
is smaller. So the template "Which of the following is true about" is no hit without the word that makes it this item.
An item of fewer than `ngram` words is found by all of its words in a row.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any, Literal

from ..data.config import Source
from ..data.row_files import check_local, each_row, find_files, is_glob
from ..finding import Finding, Refusal
from ..near_path import near_path
from ..recipe.read import real_path
from ..record.parents import hash_file
from .documents import Decide, Edit, Part, Shard, Shards, Verdict
from .evaluation_sets import FUNCTION_WORDS, Item, is_findable, read_items
from .words import words

if TYPE_CHECKING:
    import numpy as np

SCORED = ("ngram",)
PACKAGES = ("numpy",)
# Coverages below this are not stored, so that `coverage` decides above it without scoring again.
FLOOR = 0.4
# A run of 8 words is lost too easily in a short item: of 15 words with 2 changed, mostly none is left.
SEED = 5
# A run that this many items share is a template. It finds none of them, unless an item has no other run.
MOST_ITEMS = 50
# A long item is aligned in pieces: aligning takes the square of the length.
PIECE = 128
# Words of items that are looked for at once, of about 100 bytes each.
TOGETHER = 2**18
# Prior of the share of items in which a word occurs, as if this many other questions had been read.
PRIOR = 1000


@dataclass
class Decontamination:
    """Leave out, or cut, what an evaluation will ask.

    against: files of evaluation data, directories and globs of them. life: also all evaluation data that the recipes
    beside this one name. leave: files, directories or globs among these that are not tested against.
    ngram: words in a row that a document and an item share before they are compared; an item with fewer words is
    found by all of them in a row. 8 as in PaLM (arXiv 2204.02311, section 8); GPT-3's 13 (arXiv 2005.14165, appendix C)
    miss most edited items.
    coverage: share of an item's information that a document must contain, from 0.4. In 22 MB of documentation with
    planted items, 0.6 finds all with 10 % of the words changed, 92 % with 20 %, and no other document.
    short: where an item of fewer than `ngram` words is looked for: anywhere, only as a whole line, or not at all.
    action: `drop` leaves the document out, `cut` removes the sentences or lines of the item.
    keep_words: with `cut`, a document of which fewer words remain is left out.
    by: the part of a document that is searched.
    """

    against: list[str] = field(default_factory=list)
    life: bool = True
    leave: list[str] = field(default_factory=list)
    ngram: int = 8
    coverage: float = 0.6
    short: Literal["anywhere", "line", "skip"] = "anywhere"
    action: Literal["drop", "cut"] = "drop"
    keep_words: int = 20
    by: Part = "row"


# Before anything is read


def find_in_settings(settings: Decontamination, where: str) -> list[Finding]:
    """Findings of the settings, after the sets of the life were added to `against`. where: place in the recipe."""
    findings = []
    for path in settings.against:
        if not is_glob(path) and not os.path.exists(path):
            near = near_path(path)
            fix = f"did you mean {near}?" if near else "correct the path; of the Hub, give a downloaded file"
            message = f"the evaluation set {path} does not exist"
            findings.append(Finding.error("missing-file", message, fix, where))
            continue
        try:
            check_local(path)
            for file in find_files(path):
                next(each_row(file, Source(file)), None)
        except Refusal as refusal:
            findings += [replace(f, message=f"{f.where}: {f.message}", where=where) for f in refusal.findings]
    if not findings and not set_files(settings):
        message = "decontamination has no evaluation set to test against"
        fix = "name the test files in `against`, or remove the step"
        findings.append(Finding.warning("no-evaluation-set", message, fix, where))
    return findings


def set_files(settings: Decontamination) -> list[str]:
    """The files of `against` in order, each once, without those of `leave`. Raises Refusal for a missing one."""
    left = {real_path(file) for path in settings.leave for file in _all_files(path)}
    files: dict[str, str] = {}
    for path in settings.against:
        for file in find_files(path):
            if real_path(file) not in left:
                files.setdefault(real_path(file), file)
    return list(files.values())


def _all_files(path: str) -> list[str]:
    """The files of a path, directory or glob; a path that does not exist leaves nothing out."""
    try:
        return find_files(path)
    except Refusal:
        return glob.glob(path, recursive=True)


def scored_by(settings: Decontamination) -> dict[str, Any]:
    """What the scores depend on: the content of the sets, in order, and the settings in SCORED."""
    return {"sets": [hash_file(file) for file in set_files(settings)], "ngram": settings.ngram}


def unindexed(settings: Decontamination) -> list[Item]:
    """The items that cannot be found in any document: too few words, or only function words."""
    return _index_of(settings).unindexed


# The index


@dataclass(frozen=True)
class _Piece:
    """Up to PIECE words in a row of a text. text: its number. ids, weights, own: of the words (see `_weights`)."""

    text: int
    is_short: bool  # as in _Index
    ids: list[int]
    weights: list[float]
    own: list[float]


class _Index:
    """The items, and the runs of words by which they are found.

    texts: of each different text of an item, the items that have it. short: whether it has fewer than `ngram` words.
    whole: the sums of its weights, of both kinds. runs: length of a run -> its postings. Memory: 36 bytes per word of
    an item, and its text.
    """

    def __init__(self, files: Sequence[str], ngram: int):
        self.texts: list[list[Item]] = []
        self.unindexed: list[Item] = []
        numbers: dict[tuple[str, ...], int] = {}
        for item in (item for file in files for item in read_items(file)):
            text = tuple(words(item.text))
            if not is_findable(text):
                self.unindexed.append(item)
                continue
            if text not in numbers:
                numbers[text] = len(self.texts)
                self.texts.append([])
            self.texts[numbers[text]].append(item)
        import numpy as np

        vocabulary = dict.fromkeys(word for text in numbers for word in text)
        self.vocabulary = {word: n for n, word in enumerate(vocabulary, start=1)}  # 0: in no item
        plain = [self.vocabulary[word] for word in sorted(FUNCTION_WORDS & vocabulary.keys())]
        sizes = [len(text) for text in numbers]
        words_of_texts = (self.vocabulary[word] for text in numbers for word in text)
        self.ids = np.fromiter(words_of_texts, np.int32, sum(sizes))
        self.weights = _weights(self.ids, sizes, len(vocabulary), plain)
        self.short = [size < ngram for size in sizes]
        self.several = [size > PIECE for size in sizes]
        ends = np.cumsum([0, *sizes])
        self.whole = [
            tuple(float(of[first:end].sum()) for of in self.weights) for first, end in pairwise(ends.tolist())
        ]
        # (text, first word, end) of every piece, in the words of all texts.
        self.pieces = np.array(
            [
                (number, ends[number] + first, ends[number] + end)
                for number, size in enumerate(sizes)
                for first, end in _parts(size)
            ],
            np.int64,
        ).reshape(-1, 3)
        self.runs = self._postings(ngram, plain)

    def piece(self, number: int) -> _Piece:
        text, first, end = self.pieces[number].tolist()
        return _Piece(text, self.short[text], *(of[first:end].tolist() for of in (self.ids, *self.weights)))

    def text_of(self, piece: int) -> int:
        return int(self.pieces[piece, 0])

    def _postings(self, ngram: int, plain: list[int]) -> dict[int, _Postings]:
        of_length: dict[int, list[int]] = defaultdict(list)
        for number, (text, first, end) in enumerate(self.pieces.tolist()):
            size = end - first
            # Between two changed words of ten there are mostly 8 unchanged ones in a long item, in a short one 5.
            run = size if self.short[text] else ngram if size >= 8 * ngram else min(SEED, ngram)
            of_length[run].append(number)
        return {
            length: _Postings(length, of_length[length], self.pieces, self.ids, plain)
            for length in sorted(of_length)
        }

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(position, piece, position in the piece) of all runs of the pieces in a text of these words."""
        import numpy as np

        found = [postings.find(ids) for postings in self.runs.values()]
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _weights(
    ids: np.ndarray, sizes: list[int], vocabulary: int, plain: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(information of each word of each text, what of it is the text's own).

    The information of a word is the negative logarithm of the share of texts that contain it; as if PRIOR more texts
    had been read, half of which contain each of the words in `plain` and none the others, so that it is sensible for
    ten items, too. A text's own part of it is divided by the number of texts that have the word between the same
    neighbours: in "Can you tell me the colour of Willow?" all but the last word are a template if other items have
    them.
    """
    import numpy as np

    if not sizes:
        return np.zeros(0), np.zeros(0)
    text = np.repeat(np.arange(len(sizes)), sizes)
    having = _count_texts(ids, text)
    prior = np.zeros(vocabulary + 1)
    prior[plain] = PRIOR / 2
    information = np.log((len(sizes) + PRIOR) / (having + prior[ids]))
    # Of the runs of three words in which the word is first, second or third, the one that most texts have.
    inside = _windows(np.ones(len(ids), bool), 3) & (text == np.roll(text, -2))
    shared = np.where(inside, _count_texts(_hashes(ids, 3), text), 1)
    most = shared.copy()
    for k in (1, 2):
        most[k:] = np.maximum(most[k:], shared[:-k])
    return information.astype(np.float32), (information / most).astype(np.float32)


def _count_texts(values: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Of each value, in how many texts it is. text: in which one each value is."""
    import numpy as np

    _, numbers = np.unique(values, return_inverse=True)
    pairs = np.unique(numbers * (text[-1] + 1) + text)
    return np.bincount(pairs // (text[-1] + 1))[numbers]


def _parts(size: int) -> Iterator[tuple[int, int]]:
    """(first, end) of parts of about equal length: a rest of three words would be found everywhere."""
    count = -(-size // PIECE)
    for n in range(count):
        yield n * size // count, (n + 1) * size // count


class _Postings:
    """The runs of one length of some pieces: sorted hashes, and for each the pieces and the positions in them."""

    def __init__(
        self, length: int, numbers: list[int], pieces: np.ndarray, ids: np.ndarray, plain: list[int]
    ):
        import numpy as np

        self.length = length
        firsts, sizes = pieces[numbers, 1], pieces[numbers, 2] - pieces[numbers, 1]
        piece = np.repeat(np.array(numbers), sizes)
        position = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        ids = ids[np.repeat(firsts, sizes) + position]
        inside = np.flatnonzero(position <= np.repeat(sizes, sizes) - length)
        hashes = _hashes(ids, length)[inside]
        piece, position = piece[inside], position[inside]
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        # Function words alone, such as "it is one of the", count as a template.
        is_plain = _windows(np.isin(ids, np.array(plain, np.int32)), length)[inside]
        sharing = counts[inverse] + np.where(is_plain, len(ids), 0)
        rarest = np.full(len(pieces), np.iinfo(np.int64).max)
        np.minimum.at(rarest, piece, sharing)
        used = (sharing <= MOST_ITEMS) | (sharing == rarest[piece]) & (rarest[piece] > MOST_ITEMS)
        hashes, piece, position = hashes[used], piece[used], position[used]
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.starts = np.unique(hashes[order], return_index=True)
        self.starts = np.append(self.starts, len(order))
        self.piece, self.position = piece[order].astype(np.int32), position[order].astype(np.int32)

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import numpy as np

        at = np.flatnonzero(_windows(ids > 0, self.length))
        hashes = _hashes(ids, self.length)[at]
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        known = self.hashes[place] == hashes
        at, place = at[known], place[known]
        counts = self.starts[place + 1] - self.starts[place]
        # The postings of each position, one after the other.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        posting = np.repeat(self.starts[place], counts) + within
        return np.repeat(at, counts), self.piece[posting], self.position[posting]


def _hashes(ids: np.ndarray, length: int) -> np.ndarray:
    """A 64-bit hash of the `length` words from each position on; of the last positions, of fewer."""
    import numpy as np

    hashes = np.zeros(len(ids), np.uint64)
    for k in range(length):
        hashes *= np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without a pattern: 2^64 over the golden ratio
        hashes[: max(len(ids) - k, 0)] += ids[k:].astype(np.uint64)
    return hashes


def _windows(mask: np.ndarray, length: int) -> np.ndarray:
    """Whether all of the `length` positions from each one on are true."""
    import numpy as np

    sums = np.concatenate([[0], np.cumsum(mask)])
    whole = np.zeros(len(mask), bool)
    whole[: max(len(mask) - length + 1, 0)] = sums[length:] - sums[:-length] == length
    return whole


@functools.lru_cache(maxsize=2)
def _read_index(files: tuple[tuple[str, str], ...], ngram: int) -> _Index:
    return _Index([file for file, _ in files], ngram)


def _index_of(settings: Decontamination) -> _Index:
    """The index of the settings, built once per process unless a file changes."""
    files = set_files(settings)
    return _read_index(tuple((file, hash_file(file)) for file in files), settings.ngram)


# Scores


def score(texts: Sequence[str], settings: Decontamination) -> dict[str, list]:
    """The passages of each text that contain an item, as columns of lists.

    found: number of the item's text in the index. coverage: FLOOR to 1. start, end: of the passage in characters.
    line: whether the passage is a line by itself; of an item that is not short, always true.
    """
    import numpy as np

    index = _index_of(settings)
    columns: dict[str, list] = {
        name: [[] for _ in texts] for name in ("found", "coverage", "start", "end", "line")
    }
    if not index.texts:
        return columns
    ids: list[int] = []
    starts = []
    for text in texts:
        starts.append(len(ids))
        ids.extend(map(index.vocabulary.get, words(text), repeat(0)))
        ids.append(0)  # no run crosses the end of a document
    ends = [*(start - 1 for start in starts[1:]), len(ids) - 1]
    at, piece, position = index.find(np.array(ids, np.int64))
    document = np.searchsorted(np.array(starts), at, side="right") - 1
    # By piece and place: two windows of a document may have the same passage.
    passages: dict[int, dict[tuple[int, int, int], _Passage]] = defaultdict(dict)
    runs = document, piece, at - position
    for d, p, low, high in _windows_of(index, np.array(ids), np.array(starts), *runs):
        if passage := _find_passage(index.piece(p), p, ids, low, high):
            passages[d][p, passage.first, passage.last] = passage
    for d, found in passages.items():
        hits = _hits(index, list(found.values()))
        places = _places(texts[d]) if hits else []
        for passage, coverage in hits:
            # A text whose words cannot be told apart in place is a passage as a whole.
            whole = len(places) != ends[d] - starts[d]
            start = 0 if whole else places[passage.first - starts[d]][0]
            end = len(texts[d]) if whole else places[passage.last - starts[d]][1]
            columns["found"][d].append(passage.text)
            columns["coverage"][d].append(round(coverage, 4))
            columns["start"][d].append(start)
            columns["end"][d].append(end)
            columns["line"][d].append(not index.short[passage.text] or _is_line(texts[d], start, end))
    return columns


@dataclass(frozen=True)
class _Passage:
    """first, last: the words of a passage that contains a piece of a text. weights: of the piece's words in it."""

    text: int
    piece: int
    weights: tuple[float, float]
    first: int
    last: int


def _windows_of(
    index: _Index,
    ids: np.ndarray,
    starts: np.ndarray,
    document: np.ndarray,
    piece: np.ndarray,
    run: np.ndarray,
) -> Iterator[tuple[int, int, int, int]]:
    """(document, piece, low, high): where the words of a piece may be in a document, in the order of both.

    run: where the piece would begin, by each run of words in common; ids: the words of all documents. Only windows
    that have enough of the piece's words are returned: few of those that share a run with a template.
    """
    import numpy as np

    if not len(run):
        return
    order = np.lexsort((run, piece, document))
    document, piece, run = document[order], piece[order], run[order]
    new = np.concatenate([[True], (np.diff(document) != 0) | (np.diff(piece) != 0)])
    begins = np.flatnonzero(new | np.concatenate([[True], np.diff(run) != 0]))
    document, piece, run, new = document[begins], piece[begins], run[begins], new[begins]
    sizes = (index.pieces[:, 2] - index.pieces[:, 1])[piece]
    is_short = np.array(index.short)[index.pieces[piece, 0]]
    slack = np.where(is_short, 0, np.maximum(SEED, sizes // 3))
    # Groups of runs that are at most `slack` from the first one.
    firsts = np.flatnonzero(new)
    lasts = np.append(firsts[1:], len(run)) - 1
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        if run[last] - run[first] > slack[first]:
            new[first : last + 1] = _groups(run[first : last + 1].tolist(), int(slack[first]))
    firsts = np.flatnonzero(new)
    lasts = np.append(firsts[1:], len(run)) - 1
    document, piece, slack, sizes = document[firsts], piece[firsts], slack[firsts], sizes[firsts]
    ends = np.append(starts[1:], len(ids)) - 1
    low = np.maximum(run[firsts] - slack, starts[document])
    high = np.minimum(run[lasts] + sizes + slack, ends[document])
    has_enough = np.concatenate(
        [
            _has_enough(index, ids, piece[part], low[part], high[part])
            for part in _parts_of_size(sizes, TOGETHER)
        ]
    )
    columns = (column[has_enough].tolist() for column in (document, piece, low, high))
    yield from zip(*columns, strict=True)


def _groups(runs: list[int], slack: int) -> list[bool]:
    """Whether each of the ascending numbers is the first of a group, of which none is over `slack` from the first."""
    first, is_first = runs[0], [True]
    for run in runs[1:]:
        is_first.append(run - first > slack)
        if is_first[-1]:
            first = run
    return is_first


def _parts_of_size(sizes: np.ndarray, size: int) -> Iterator[slice]:
    """Parts of consecutive numbers, with a sum of about `size` each."""
    import numpy as np

    number = np.cumsum(sizes) // size
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    return (slice(first, last) for first, last in pairwise(bounds))


def _has_enough(
    index: _Index, ids: np.ndarray, piece: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Whether the words of each window that are words of the piece, in any order, weigh FLOOR of it."""
    import numpy as np

    known = np.flatnonzero(ids)
    # Where each word is: the words first, the places of a word in order.
    places = ids[known] * len(ids) + known
    places.sort()
    sizes = index.pieces[piece, 2] - index.pieces[piece, 1]
    begins = np.cumsum(sizes) - sizes
    word = np.repeat(index.pieces[piece, 1] - begins, sizes) + np.arange(sizes.sum())
    base = index.ids[word].astype(np.int64) * len(ids)
    at = np.minimum(np.searchsorted(places, base + np.repeat(low, sizes)), len(places) - 1)
    place = places[at]
    inside = (place >= base + np.repeat(low, sizes)) & (place < base + np.repeat(high, sizes))
    shares = []
    for weights in index.weights:
        mine = weights[word].astype(float)
        shares.append(np.add.reduceat(mine * inside, begins) / np.add.reduceat(mine, begins))
    # Sums in another order may differ in the last digits.
    return np.minimum(*shares) >= FLOOR - 1e-9


def _find_passage(piece: _Piece, number: int, ids: list[int], low: int, high: int) -> _Passage | None:
    """The passage of ids[low:high] that contains a piece."""
    window, whole = ids[low:high], (sum(piece.weights), sum(piece.own))
    if piece.is_short:
        return _Passage(piece.text, number, whole, low, high - 1) if window == piece.ids else None
    weights, left, right = _align(piece, window)
    if _share(weights, whole) < FLOOR:
        return None
    return _Passage(piece.text, number, weights, low + left, low + right)


def _share(weights: Sequence[float], whole: tuple[float, float]) -> float:
    """The smaller share: a document must contain the item's words, and those that only this item has."""
    return min(weights[0] / whole[0], weights[1] / whole[1], 1.0)


def _align(piece: _Piece, window: list[int]) -> tuple[tuple[float, float], int, int]:
    """(weights of the piece's words that the window has in order, first and last of them in the window)."""
    blocks = SequenceMatcher(None, piece.ids, window, autojunk=False).get_matching_blocks()[:-1]
    weights = [sum(piece.weights[block.a : block.a + block.size]) for block in blocks]
    best = max(range(len(blocks)), key=weights.__getitem__)
    passage, left, right = [best], blocks[best].b, blocks[best].b + blocks[best].size
    # A block belongs to the passage if it is longer than what separates it, but for one word: a single "the" in
    # the next sentence does not.
    for n in range(best + 1, len(blocks)):
        if blocks[n].b - right <= blocks[n].size + 1:
            passage, right = [*passage, n], blocks[n].b + blocks[n].size
    for n in range(best - 1, -1, -1):
        if left - blocks[n].b - blocks[n].size <= blocks[n].size + 1:
            passage, left = [*passage, n], blocks[n].b
    own = sum(sum(piece.own[blocks[n].a : blocks[n].a + blocks[n].size]) for n in passage)
    return (sum(weights[n] for n in passage), own), left, right - 1


def _hits(index: _Index, passages: list[_Passage]) -> list[tuple[_Passage, float]]:
    """(passage, coverage of its item) in the order of the document; of an item in pieces, by all of them."""
    best: dict[int, tuple[float, float]] = {}
    for passage in passages:
        best[passage.piece] = max(best.get(passage.piece, (0.0, 0.0)), passage.weights)
    found: dict[int, tuple[float, float]] = {}
    for piece, weights in best.items():
        before = found.get(index.text_of(piece), (0.0, 0.0))
        found[index.text_of(piece)] = before[0] + weights[0], before[1] + weights[1]
    hits = []
    for passage in passages:
        weights = found[passage.text] if index.several[passage.text] else passage.weights
        if (coverage := _share(weights, index.whole[passage.text])) >= FLOOR:
            hits.append((passage, coverage))
    return sorted(hits, key=lambda hit: (hit[0].first, hit[0].last, hit[0].text))


def _places(text: str) -> list[tuple[int, int]]:
    """(start, end) of every word of `words(text)` in the text itself.

    Normalising changes the length of few words. There, a word has the place of all that is between the spaces.
    """
    places: list[tuple[int, int]] = []
    for part, start in _unchanged(text):
        plain, at = unicodedata.normalize("NFKC", part).lower(), 0
        for word in words(part):
            at = plain.find(word, at)
            end = at + len(word)
            places.append(
                (start + at, start + end) if len(plain) == len(part) else (start, start + len(part))
            )
            at = end
    return places


def _unchanged(text: str) -> list[tuple[str, int]]:
    """(part of the text, its place): all of it if normalising keeps its length, else what is between the spaces."""
    if len(unicodedata.normalize("NFKC", text).lower()) == len(text):
        return [(text, 0)]
    return [(match[0], match.start()) for match in re.finditer(r"\S+", text)]


def _is_line(text: str, start: int, end: int) -> bool:
    """Whether nothing but punctuation is on the line beside text[start:end]."""
    before, after = text[:start].rpartition("\n")[2], text[end:].partition("\n")[0]
    return not re.search(r"\w", before + after)


# Decision


def decider(settings: Decontamination, shards: Shards) -> Decide:
    """`decide` of this step; `hits(decide)` has the documents of each item once all shards were decided."""
    index = _index_of(settings)
    found: dict[int, list[str]] = defaultdict(list)

    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        verdicts = {}
        for i, lives in enumerate(alive):
            if not lives or not len(shard.scores["found"][i]):
                continue
            columns = (shard.scores[name][i] for name in ("found", "coverage", "start", "end", "line"))
            hits = [hit for hit in zip(*columns, strict=True) if _counts(index, settings, *hit)]
            if not hits:
                continue
            for text in dict.fromkeys(hit[0] for hit in hits):
                found[text].append(shard.ids[i])
            verdicts[i] = _verdict(index, settings, hits, shard, i)
        return verdicts

    decide.hits = lambda: _by_item(index, found)
    return decide


def hits(decide: Decide) -> dict[str, dict[int, list[str]]]:
    """{path of a set: {line of an item: ids of the documents that contain it}}, of all shards decided so far.

    They are documents that were left by the steps before; this step then drops them or cuts the item.
    """
    return decide.hits()


def _by_item(index: _Index, found: dict[int, list[str]]) -> dict[str, dict[int, list[str]]]:
    by_item: dict[str, dict[int, list[str]]] = {}
    pairs = [(item, ids) for text, ids in found.items() for item in index.texts[text]]
    for item, ids in sorted(pairs, key=lambda pair: (pair[0].path, pair[0].line)):
        lines = by_item.setdefault(item.path, {})
        # A row may have two items: a question, and the stem of the same.
        lines[item.line] = list(dict.fromkeys([*lines.get(item.line, []), *ids]))
    return by_item


def _counts(
    index: _Index, settings: Decontamination, text: int, coverage: float, start: int, end: int, line: bool
) -> bool:
    if index.short[text]:
        return settings.short == "anywhere" or (settings.short == "line" and line)
    return coverage >= settings.coverage


def _verdict(index: _Index, settings: Decontamination, hits: list, shard: Shard, i: int) -> Verdict:
    text, coverage, start, end, _ = max(hits, key=lambda hit: (hit[1], -hit[2]))
    item = index.texts[text][0]
    detail = {
        "set": item.path,
        "item": item.line,
        "coverage": coverage,
        "items": len({hit[0] for hit in hits}),
        "span": [start, end],
    }
    if settings.action == "drop":
        return Verdict(("contaminated",), detail)
    whole = shard.texts[i]
    spans = _merged(_sentences(whole, hit[2], hit[3]) for hit in hits)
    kept = [
        whole[a:b] for a, b in zip([0, *(b for _, b in spans)], [*(a for a, _ in spans), None], strict=True)
    ]
    if len(words("".join(kept))) < settings.keep_words:
        return Verdict(("contaminated",), detail)
    return Verdict((), detail, tuple(Edit(a, b, "", "evaluation item") for a, b in spans))


# The end of a sentence, and the spaces behind it that are on the same line.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?:[ \t]+|(?=\n)|$)|[。！？]")


def _sentences(text: str, start: int, end: int) -> tuple[int, int]:
    """text[start:end] extended to whole sentences; where these fill their lines, to the line break, too."""
    line = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    last = len(text) if last < 0 else last
    start = max([line, *(match.end() for match in _SENTENCE_END.finditer(text, line, start))])
    # From inside the last word's sentence, whose end mark may stand before a quotation mark.
    closing = _SENTENCE_END.search(text, end, last)
    end = closing.end() if closing else last
    if not text[line:start].strip() and not text[end:last].strip():
        return line, min(last + 1, len(text))
    return start, end


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
