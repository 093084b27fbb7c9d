"""Shingles: runs of consecutive words, by which texts are compared. No torch.

The Jaccard similarity of two texts is that of their sets of shingles (Broder, 1997: On the resemblance and
containment of documents).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

PROBES = 32
# An odd multiplier keeps all 64 bits of the word's hash: the golden ratio as a fraction of 2**64 (Knuth, TAOCP 3, 6.4).
_FACTOR = 0x9E3779B97F4A7C15


def shingles(text: list[str], size: int) -> set[tuple[str, ...]]:
    """All sequences of `size` consecutive words; a shorter text is one sequence, an empty one none."""
    if len(text) < size:
        return {tuple(text)} if text else set()
    return set(zip(*(text[i:] for i in range(size)), strict=False))


def shingle_hashes(text: list[str], size: int) -> np.ndarray:
    """The set `shingles(text, size)` as sorted 64-bit numbers: 8 bytes each, the same in every process.

    Of two texts with 1,000 shingles each, two different shingles have the same number with a probability
    of 1000 * 1000 / 2**64 = 5e-14.
    """
    import numpy as np

    hashes = np.fromiter(map(_WORD_HASHES.__getitem__, text), np.uint64, len(text))
    size = min(size, len(text))
    if not size:
        return hashes
    runs = len(text) - size + 1
    combined = hashes[:runs].copy()
    for i in range(1, size):
        combined *= np.uint64(_FACTOR)
        combined += hashes[i : i + runs]
    # The finaliser of splitmix64 (Steele et al., OOPSLA 2014): every bit depends on every bit, as MinHash needs.
    combined ^= combined >> np.uint64(30)
    combined *= np.uint64(0xBF58476D1CE4E5B9)
    combined ^= combined >> np.uint64(27)
    combined *= np.uint64(0x94D049BB133111EB)
    combined ^= combined >> np.uint64(31)
    combined.sort()
    new = np.ones(runs, bool)
    np.not_equal(combined[1:], combined[:-1], out=new[1:])
    return combined[new]


class _WordHashes(dict[str, int]):
    """The 64-bit hash of a word, from its bytes; those of the last words are remembered."""

    MOST = 2**17  # words, of about 200 bytes each

    def __missing__(self, word: str) -> int:
        if len(self) >= self.MOST:
            self.clear()
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


_WORD_HASHES = _WordHashes()


def jaccard(common: int, one: int, other: int) -> float:
    """The Jaccard similarity of two sets, from the sizes of what they share and of each."""
    return common / (one + other - common)


def index_of(targets: Iterable[set[tuple[str, ...]]]) -> dict[tuple[str, ...], list[int]]:
    """Inverted index of a few targets: shingle -> the numbers of the targets that contain it."""
    index: dict[tuple[str, ...], list[int]] = {}
    for n, target in enumerate(targets):
        for shingle in target:
            index.setdefault(shingle, []).append(n)
    return index


def is_far(text: list[str], index: dict[tuple[str, ...], list[int]], size: int) -> bool:
    """Whether fewer than half of PROBES shingles, spread over a long text, are in any target.

    Of a near-duplicate, the share `near` of all shingles is in a target. Nearly every row is ruled out here, at
    a tenth of the cost of looking up all of its shingles.
    """
    runs = len(text) - size + 1
    if runs <= PROBES:
        return False
    starts = range(0, runs, runs // PROBES)
    return 2 * sum(tuple(text[i : i + size]) in index for i in starts) < len(starts)


def candidates(mine: set[tuple[str, ...]], index: dict[tuple[str, ...], list[int]], near: float) -> set[int]:
    """All targets that can have a Jaccard similarity of `near` or more with `mine`, and a few others.

    Such a target contains at least n = near * |mine| of the shingles in `mine`, so it contains at least one
    of any |mine| - n + 1 of them: it is enough to look up the rarest (prefix filtering: Chaudhuri et al.,
    ICDE 2006).
    """
    known = [s for s in mine if s in index]
    needed = math.ceil(near * len(mine))
    if not mine or len(known) < needed:
        return set()
    known.sort(key=lambda s: len(index[s]))
    return {n for s in known[: len(known) - needed + 1] for n in index[s]}
