"""Which documents are held out: whole groups, none of which resembles a training document. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from itertools import compress, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..finding import Finding, refuse
from .config import HeldOut
from .rows import text_of
from .shards import Corpus
from .shingles import Targets, shingle_hashes
from .words import words
from .writing import written_rows

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

FILE = "file"
LEAST_HELD = 0.9  # of the documents that are asked for; fewer are reported
SHINGLE = 3  # words, as in the check of held-out rows (eval-near-overlap)


def hold_out(
    corpus: Corpus, config: HeldOut, alive: np.ndarray, seed: int, directory: Path, bar: tqdm
) -> tuple[np.ndarray, int]:
    """(whether each document is held out, how many were moved back since they resemble a training document).

    The groups are those with the smallest hashes of the seed and their name, so few groups change sides when other
    rows are added. directory: with the edits. Raises Refusal no-rows, missing-column.
    """
    import numpy as np

    numbers, bounds = _groups(corpus, config, alive, seed, directory)
    held_out, wanted, count = np.zeros(len(corpus), bool), config.fraction * int(alive.sum()), 0
    of_group: dict[int, np.ndarray] = {}
    for start, end in pairwise(bounds):
        if count + 1 > wanted:
            break
        own = numbers[start:end]
        if count + len(own) <= wanted:
            held_out[own] = True
            of_group.update(dict.fromkeys(own.tolist(), own))
            count += len(own)
    if not count or count == alive.sum():
        what = "documents" if config.group_by is None else f"groups by {config.group_by!r}"
        message = f"curate.held_out.fraction: of {len(bounds) - 1:,} {what}, {config.fraction:g} of the documents is "
        message += "less than one" if not count else "all of them"
        fix = "change curate.held_out.fraction"
        raise refuse("no-rows", message, fix + (", or group by another column" if config.group_by else ""))
    moved = _move_back(corpus, config, alive, held_out, of_group, directory, bar)
    if not held_out.any():
        message = "every document that would be held out resembles a training document"
        fix = "add a near_duplicates step, or raise curate.held_out.similarity"
        raise refuse("no-rows", message, fix)
    return held_out, moved


def find_too_few(config: HeldOut, documents: int, held_out: int, moved: int) -> list[Finding]:
    """held-out-too-few: fewer documents than `fraction` asks for, since groups are large or were moved back."""
    wanted = config.fraction * documents
    if held_out >= LEAST_HELD * wanted - 1:
        return []
    message = f"{held_out:,} of {documents:,} documents are held out, where {wanted:,.0f} are asked for"
    if moved:
        message += f": {moved:,} resemble training documents and were moved back"
    by_moves = held_out + moved >= LEAST_HELD * wanted - 1
    fix = "add a near_duplicates step before" if by_moves else "group by a column with smaller groups"
    return [Finding.warning("held-out-too-few", message, fix, "curate.held_out")]


def _groups(
    corpus: Corpus, config: HeldOut, alive: np.ndarray, seed: int, directory: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of the documents, group by group, where each group begins and the last one ends).

    The groups are in the order of their hashes. Memory: 40 bytes per document.
    """
    import numpy as np

    hashes = bytearray()
    for name in _group_names(corpus, config, alive, directory):
        hashes += blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()
    first, second = np.frombuffer(hashes, ">u8").reshape(-1, 2).T
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    begin = np.flatnonzero((first[1:] != first[:-1]) | (second[1:] != second[:-1])) + 1
    return np.flatnonzero(alive).astype(np.uint32)[order], np.concatenate([[0], begin, [len(order)]])


def _group_names(corpus: Corpus, config: HeldOut, alive: np.ndarray, directory: Path) -> Iterator[str]:
    """The name of every document's group."""
    if config.group_by in (None, FILE):
        for shard, first in enumerate(corpus.firsts[:-1]):
            for id in compress(corpus.ids(shard), alive[first : corpus.firsts[shard + 1]]):
                yield id if config.group_by is None else id.rpartition(":")[0]
        return
    for _, id, row in written_rows(corpus, directory, alive):
        # A row without the column, such as one of a .txt file, is a group of its own.
        yield str(row[config.group_by]) if config.group_by in row else id


def _move_back(
    corpus: Corpus,
    config: HeldOut,
    alive: np.ndarray,
    held_out: np.ndarray,
    of_group: dict[int, np.ndarray],
    directory: Path,
    bar: tqdm,
) -> int:
    """Move every held-out group with a near-duplicate among the training documents to these; returns the documents.

    What is moved is compared with what is still held out, in turn.
    """
    numbers, sets = [], []
    for number, _, row in written_rows(corpus, directory, held_out):
        numbers.append(number)
        sets.append(shingle_hashes(words(text_of(row, "row")), SHINGLE))
    targets, moved = Targets(sets, SHINGLE), 0
    rows = {number: n for n, number in enumerate(numbers)}

    def move(shingles: np.ndarray) -> int:
        waiting, count = [shingles], 0
        while waiting:
            for n, _ in targets.near(waiting.pop(), config.similarity):
                for member in of_group[numbers[n]].tolist() if held_out[numbers[n]] else ():
                    held_out[member] = False
                    waiting.append(sets[rows[member]])
                    count += 1
        return count

    for _, _, row in written_rows(corpus, directory, alive & ~held_out):
        bar.update()
        text = words(text_of(row, "row"))
        if not targets.are_far(text):
            moved += move(shingle_hashes(text, SHINGLE))
    return moved
