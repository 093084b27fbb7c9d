"""Exact duplicates: every later copy of a document that was kept, within a source and across sources.

Memory: 14 bytes per document while the copies are searched for; after that about 250 bytes for each document
that has copies.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from .documents import Decide, Part, Shard, Shards, Verdict

# A reply with another label is no copy, but its contradiction: the step `preferences` judges it.
READS = "labelled texts"
SCORED = ("by", "ignore_case")
PACKAGES = ()
_HEAD = 8  # bytes of a hash that find the documents to look at; all of it decides


@dataclass
class ExactDuplicates:
    """Leave out later copies of a document that was kept, as in C4 (Raffel et al., 2020) and RefinedWeb (2023).

    by: the text that must be equal: `row`, or of a conversation only its `prompt` or its `reply`.
    ignore_case: upper and lower case are equal. Unicode forms (NFKC) and the kind of whitespace always are.
    """

    by: Part = "row"
    ignore_case: bool = True


def score(texts: Sequence[str], settings: ExactDuplicates) -> dict[str, list[bytes]]:
    """`hash`: 16 bytes of the normalised text; none if it is empty, for an empty text is nobody's copy."""
    return {"hash": [_hash(text, settings.ignore_case) for text in texts]}


def _hash(text: str, ignore_case: bool) -> bytes:
    text = unicodedata.normalize("NFKC", text)
    text = " ".join((text.casefold() if ignore_case else text).split())
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() if text else b""


def decider(settings: ExactDuplicates, shards: Shards) -> Decide:
    import numpy as np

    repeated = np.append(_repeated(shards), np.uint64(0))  # the 0 is a place for what is larger than all
    kept: dict[bytes, str] = {}

    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        verdicts = {}
        hashes = shard.scores["hash"]
        rows = [i for i, key in enumerate(hashes) if key and alive[i]]
        heads = np.frombuffer(b"".join(hashes[i][:_HEAD] for i in rows), np.uint64)
        # Not np.isin, which sorts all of `repeated` for every shard.
        places = np.searchsorted(repeated[:-1], heads)
        for n in np.flatnonzero(repeated[places] == heads).tolist():
            i = rows[n]
            if hashes[i] in kept:
                verdicts[i] = Verdict(("exact-duplicate",), {"kept": kept[hashes[i]]})
            else:
                kept[hashes[i]] = shard.ids[i]
        return verdicts

    return decide


def _repeated(shards: Shards):
    """The first bytes of the hashes that occur more than once, as sorted numbers."""
    import numpy as np

    heads = bytearray()
    for shard in shards:
        heads += b"".join(key[:_HEAD] for key in shard.scores["hash"])
    numbers = np.frombuffer(heads, np.uint64)
    numbers.sort()
    return np.unique(numbers[1:][numbers[1:] == numbers[:-1]])
