"""Near-duplicates: documents whose words are almost those of a document that was kept.

MinHash-LSH finds candidates (Broder, 1997; Leskovec et al., Mining of Massive Datasets, 3.4), the exact Jaccard
similarity of the two sets of word shingles decides. So every removal names a kept document that it resembles:
none rests on a chain of others, and none on an estimate.

Memory, apart from 128 MB of recent shingle sets: 41 bytes per document while buckets are searched for, then 170
bytes for each document that may have a near-duplicate.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..finding import Finding, Refusal, refuse
from .documents import Decide, Part, Shard, Shards, Verdict
from .rows import text_of
from .shingles import shingle_hashes, similarity
from .words import words

if TYPE_CHECKING:
    import numpy as np

SCORED = ("by", "shingle")
PACKAGES = ("rensa", "numpy")
BANDS, ROWS = 32, 4  # candidates: at Jaccard 0.8 the share 1 - (1 - 0.8**4)**32 = 0.99999995 of the pairs
SEED = 1
# Below this threshold the candidates miss more than 5 % of the pairs: 1 - (1 - 0.55**4)**32 = 0.954.
LOWEST = 0.55
MISSED = 0.001  # share of the pairs at the threshold that may be lost to fewer comparisons
TOGETHER = 4  # bands that are searched for buckets in one pass over the shards
RECENT = 2**24  # shingles that stay in memory, of 8 bytes each


@dataclass
class NearDuplicates:
    """Leave out documents that resemble a kept one, by MinHash-LSH and exact Jaccard (Lee et al., 2022, use 0.8).

    threshold: the smallest Jaccard similarity of a near-duplicate; from 0.55 to 1.
    shingle: words per shingle; 5 as in FineWeb (Penedo et al., 2024).
    by: the text that is compared: `row`, or of a conversation only its `prompt` or its `reply`.
    Pairs and thumbs that judge the opposite are no duplicates, unless `by` is `prompt`.
    """

    threshold: float = 0.8
    shingle: int = 5
    by: Part = "row"


def score(texts: Sequence[str], settings: NearDuplicates) -> dict[str, list[Any]]:
    """`bands`: 32 keys of 4 bytes, none for a text without words; `shingles`: their number in the set."""
    import numpy as np

    sets = [shingle_hashes(words(text), settings.shingle) for text in texts]
    sizes = [len(one) for one in sets]
    ends = np.cumsum([0, *sizes]).astype(np.uint64)
    flat = np.concatenate(sets) if sets else np.empty(0, np.uint64)
    matrix = _rensa().RMinHash.digest_matrix_from_flat_token_hashes(flat, ends, BANDS * ROWS, SEED)
    signatures = np.array(matrix.to_rows(), np.uint64).reshape(len(sets), BANDS, ROWS)
    keys = signatures[:, :, 0]
    for i in range(1, ROWS):
        keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + signatures[:, :, i]
    keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    # 4 bytes are enough: among 10 M documents a key has 0.002 strangers, and candidates are verified.
    rows = (keys >> np.uint64(32)).astype("<u4")
    return {
        "bands": [row.tobytes() if size else b"" for row, size in zip(rows, sizes, strict=True)],
        "shingles": sizes,
    }


def _rensa():
    try:
        import rensa
    except ImportError:
        raise refuse(
            "missing-package",
            "near_duplicates needs the package rensa, which is not installed",
            "pip install 'lifecycle-recipes[curation]'",
        ) from None
    return rensa


def fewest_bands(threshold: float) -> int:
    """The number of equal bands from which a pair is compared.

    A pair at the threshold has fewer with a probability of at most MISSED, or than 1 where the bands allow no
    better; a pair that is far below it seldom has as many, so that pages of one template need no comparison.
    """
    equal = threshold**ROWS
    missed, fewest = 0.0, 0
    while missed <= MISSED and fewest < BANDS:
        missed += math.comb(BANDS, fewest) * equal**fewest * (1 - equal) ** (BANDS - fewest)
        fewest += 1
    return max(fewest - 1, 1) if missed > MISSED else BANDS


def find_in_settings(settings: NearDuplicates, where: str) -> list[Finding]:
    """near-duplicate-threshold."""
    if LOWEST <= settings.threshold <= 1:
        return []
    message = f"near_duplicates.threshold is {settings.threshold}: below {LOWEST} more than 5 % of the "
    message += "near-duplicates would not be found, and above 1 there are none"
    fix = f"set it between {LOWEST} and 1; the usual value is 0.8"
    return [Finding.error("near-duplicate-threshold", message, fix, where)]


def decider(settings: NearDuplicates, shards: Shards) -> Decide:
    import numpy as np

    if findings := find_in_settings(settings, ""):
        raise Refusal(*findings)
    fewest = fewest_bands(settings.threshold)
    numbers = _in_buckets(shards, fewest)
    before = _before(shards, numbers)
    kept = np.zeros(len(numbers), bool)
    sizes = np.zeros(len(numbers), np.uint32)
    recent = _Recent(shards, settings.shingle)

    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        verdicts = {}
        start, end = np.searchsorted(numbers, [shard.first, shard.first + len(shard)]).tolist()
        for row in range(start, end):
            _skip_left_out(before, row, kept)
            i = int(numbers[row]) - shard.first
            if not alive[i]:
                continue
            sizes[row] = shard.scores["shingles"][i]
            mine = recent.add(int(numbers[row]), shard.texts[i])
            best, closest = -1, 0.0
            for other in _candidates(before, row, fewest).tolist():
                small, large = sorted((int(sizes[row]), int(sizes[other])))
                # What the sizes allow at most.
                if small / large < settings.threshold or small / large <= closest:
                    continue
                found = similarity(mine, recent.get(int(numbers[other])))
                if found < settings.threshold or found <= closest:
                    continue
                judges = settings.by != "prompt" and "text" not in shard.rows[i]
                if not (judges and _opposes(shard.rows[i], shards.row(int(numbers[other])))):
                    best, closest = other, found
            if best < 0:
                kept[row] = True
            else:
                detail = {"kept": shards.id(int(numbers[best])), "jaccard": round(closest, 3)}
                verdicts[i] = Verdict(("near-duplicate",), detail)
        return verdicts

    return decide


def _in_buckets(shards: Shards, fewest: int) -> np.ndarray:
    """The numbers of the documents of which at least `fewest` bands are equal to those of others, in order."""
    import numpy as np

    numbers = _numbers(shards)
    counts = np.zeros(len(numbers), np.uint8)
    for band in range(0, BANDS, TOGETHER):
        keys = _keys(shards, slice(band, band + TOGETHER))
        for n in range(TOGETHER):
            counts[_repeated(keys[:, n])] += 1
        del keys  # before the next ones are read
    return numbers[counts >= fewest]


def _repeated(keys: np.ndarray) -> np.ndarray:
    """The rows whose key is also that of another row."""
    import numpy as np

    order = _by_key(keys)
    equal = (order[1:] ^ order[:-1]) < 2**32
    repeated = np.zeros(len(order), bool)
    repeated[1:] |= equal
    repeated[:-1] |= equal
    return order[repeated] & np.uint64(2**32 - 1)


def _before(shards: Shards, numbers: np.ndarray) -> np.ndarray:
    """For each of the documents and each band, the row of the document before it in its bucket, or -1."""
    import numpy as np

    keys = _keys(shards, slice(0, BANDS), numbers)
    before = keys.view(np.int32)
    for band in range(BANDS):
        order = _by_key(keys[:, band])
        rows = (order & np.uint64(2**32 - 1)).astype(np.int32)
        equal = (order[1:] ^ order[:-1]) < 2**32
        before[rows[:1], band] = -1
        before[rows[1:], band] = np.where(equal, rows[:-1], -1)
    return before


def _numbers(shards: Shards) -> np.ndarray:
    """The numbers of the documents that have words."""
    import numpy as np

    numbers = bytearray()
    for shard in shards:
        some = [shard.first + i for i, key in enumerate(shard.scores["bands"]) if key]
        numbers += np.array(some, np.uint32).tobytes()
    return np.frombuffer(numbers, np.uint32)


def _keys(shards: Shards, bands: slice, only: np.ndarray | None = None) -> np.ndarray:
    """These bands of the documents that have words. only: of the documents with these numbers."""
    import numpy as np

    keys = bytearray()
    for shard in shards:
        column = shard.scores["bands"]
        if only is not None:
            start, end = np.searchsorted(only, [shard.first, shard.first + len(column)])
            column = [column[n - shard.first] for n in only[start:end].tolist()]
        keys += np.frombuffer(b"".join(column), "<u4").reshape(-1, BANDS)[:, bands].tobytes()
    return np.frombuffer(keys, "<u4").reshape(-1, len(range(BANDS)[bands]))


def _by_key(keys: np.ndarray) -> np.ndarray:
    """`key * 2**32 + row` of every row, sorted: the rows of a bucket follow each other, in order."""
    import numpy as np

    order = keys.astype(np.uint64)
    order <<= np.uint64(32)
    order |= np.arange(len(keys), dtype=np.uint32)
    order.sort()
    return order


def _skip_left_out(before: np.ndarray, row: int, kept: np.ndarray) -> None:
    """Point from a row to kept rows only. The rows before it already do: one step is enough.

    So a bucket costs what it has of kept documents, however many copies of them it holds.
    """
    import numpy as np

    bands = np.flatnonzero(before[row] >= 0)
    out = bands[~kept[before[row, bands]]]
    before[row, out] = before[before[row, out], out]


def _candidates(before: np.ndarray, row: int, fewest: int) -> np.ndarray:
    """The kept rows that share at least `fewest` bands with this one, in order."""
    import numpy as np

    bands = np.flatnonzero(before[row] >= 0)
    if len(bands) < fewest:
        return bands[:0]
    found, rows = [], before[row, bands]
    while len(rows):
        found.append(rows)
        rows = before[rows, bands]
        rows, bands = rows[rows >= 0], bands[rows >= 0]
    others, shared = np.unique(np.concatenate(found), return_counts=True)
    return others[shared >= fewest]


def _opposes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether rows that resemble each other judge the opposite: another label, or chosen and rejected swapped.

    Then neither is a copy of the other.
    """
    if "completion" in one:
        return bool(one["label"]) != bool(other["label"])
    if "chosen" not in one or one["chosen"] == one["rejected"]:
        return False
    if one["chosen"] == other["rejected"] or one["rejected"] == other["chosen"]:
        return True
    (chosen, rejected), (their_chosen, their_rejected) = (
        [shingle_hashes(words(text_of({column: row[column]}, "row")), 2) for column in ("chosen", "rejected")]
        for row in (one, other)
    )
    same = similarity(chosen, their_chosen) + similarity(rejected, their_rejected)
    return same < similarity(chosen, their_rejected) + similarity(rejected, their_chosen)


class _Recent:
    """The shingle sets that were used last; the text of an older one is read again."""

    def __init__(self, shards: Shards, shingle: int):
        self.shards, self.shingle = shards, shingle
        self.sets: OrderedDict[int, np.ndarray] = OrderedDict()
        self.size = 0

    def add(self, number: int, text: str) -> np.ndarray:
        one = self.sets[number] = shingle_hashes(words(text), self.shingle)
        self.size += len(one)
        while self.size > RECENT and len(self.sets) > 1:
            self.size -= len(self.sets.popitem(last=False)[1])
        return one

    def get(self, number: int) -> np.ndarray:
        if number not in self.sets:
            return self.add(number, self.shards.text(number))
        self.sets.move_to_end(number)
        return self.sets[number]
