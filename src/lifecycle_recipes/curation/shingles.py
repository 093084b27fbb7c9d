"""Shingles: runs of consecutive words, by which texts are compared. No torch.

The Jaccard similarity of two texts is that of their sets of shingles (Broder, 1997: On the resemblance and
containment of documents).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

PROBES = 32
# An odd multiplier keeps all 64 bits of the word's hash: the golden ratio as a fraction of 2**64 (Knuth, TAOCP 3, 6.4).
_FACTOR = 0x9E3779B97F4A7C15


def shingle_hashes(text: list[str], size: int) -> np.ndarray:
    """The set of all sequences of `size` consecutive words, as sorted 64-bit numbers: 8 bytes each.

    A shorter text is one sequence, an empty one none. The numbers are the same in every process. Of two texts with
    1,000 shingles each, two different shingles have the same number with a probability of
    1000 * 1000 / 2**64 = 5e-14.
    """
    import numpy as np

    hashes = np.fromiter(map(_WORD_HASHES.__getitem__, text), np.uint64, len(text))
    size = min(size, len(text))
    if not size:
        return hashes
    runs = len(text) - size + 1
    combined = _combine([hashes[i : i + runs] for i in range(size)])
    combined.sort()
    new = np.ones(runs, bool)
    np.not_equal(combined[1:], combined[:-1], out=new[1:])
    return combined[new]


def _combine(words: Sequence[np.ndarray]) -> np.ndarray:
    """The hashes of sequences of words, from the hashes of their first, second, ... words."""
    import numpy as np

    combined = words[0].copy()
    for own in words[1:]:
        combined *= np.uint64(_FACTOR)
        combined += own
    # The finaliser of splitmix64 (Steele et al., OOPSLA 2014): every bit depends on every bit, as MinHash needs.
    combined ^= combined >> np.uint64(30)
    combined *= np.uint64(0xBF58476D1CE4E5B9)
    combined ^= combined >> np.uint64(27)
    combined *= np.uint64(0x94D049BB133111EB)
    combined ^= combined >> np.uint64(31)
    return combined


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


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The Jaccard similarity of two sets of shingles."""
    import numpy as np

    both = np.concatenate([one, other])
    both.sort()
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    return common / max(len(one) + len(other) - common, 1)


class Targets:
    """A few sets of shingles, and which of them have a shingle: 20 bytes per shingle."""

    def __init__(self, sets: Sequence[np.ndarray], size: int):
        """sets: of `shingle_hashes`. size: words per shingle."""
        import numpy as np

        self.sets, self.size = sets, size
        hashes = np.concatenate([*sets, np.empty(0, np.uint64)])
        owners = np.repeat(np.arange(len(sets), dtype=np.uint32), [len(one) for one in sets])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]

    def are_far(self, text: list[str]) -> bool:
        """Whether fewer than half of PROBES shingles, spread over a long text, are in any target.

        Of a near-duplicate, the share `near` of all shingles is in a target. Nearly every text is ruled out here, at
        a tenth of the cost of looking up all of its shingles.
        """
        import numpy as np

        runs = len(text) - self.size + 1
        if runs <= PROBES or not len(self._hashes):
            return not len(self._hashes)
        starts = range(0, runs, runs // PROBES)
        flat = [_WORD_HASHES[text[start + i]] for i in range(self.size) for start in starts]
        probes = _combine(np.array(flat, np.uint64).reshape(self.size, -1))
        places = np.searchsorted(self._hashes, probes)
        places[places == len(self._hashes)] = 0
        return 2 * np.count_nonzero(self._hashes[places] == probes) < len(probes)

    def near(self, mine: np.ndarray, least: float) -> list[tuple[int, float]]:
        """(number, Jaccard similarity) of all targets with at least the similarity `least` (above 0), in order.

        Such a target contains at least n = least * |mine| of the shingles in `mine`, so it contains at least one
        of any |mine| - n + 1 of them: it is enough to look up the rarest (prefix filtering: Chaudhuri et al.,
        ICDE 2006).
        """
        import numpy as np

        starts = np.searchsorted(self._hashes, mine, "left")
        counts = np.searchsorted(self._hashes, mine, "right") - starts
        known = np.flatnonzero(counts)
        needed = math.ceil(least * len(mine) - 1e-9)  # 0.55 * 100 is a little more than 55
        if not len(known) or len(known) < needed:
            return []
        rarest = known[np.argsort(counts[known], kind="stable")][: len(known) - needed + 1]
        own = [self._owners[starts[n] : starts[n] + counts[n]] for n in rarest.tolist()]
        found = ((n, similarity(mine, self.sets[n])) for n in np.unique(np.concatenate(own)).tolist())
        return [(n, value) for n, value in found if value >= least]
