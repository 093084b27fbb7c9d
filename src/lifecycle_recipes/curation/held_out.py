"""Which documents are held out: whole groups, none of which resembles a training document. No torch."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finding import refuse
from .config import HeldOut
from .rows import text_of
from .shards import Corpus
from .shingles import candidates, index_of, is_far, jaccard, shingles
from .words import words
from .writing import written_rows

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

FILE = "file"
SHINGLE = 3  # words, as in the check of held-out rows (eval-near-overlap)


def hold_out(
    corpus: Corpus, config: HeldOut, alive: np.ndarray, seed: int, directory: Path, bar: tqdm
) -> tuple[np.ndarray, int]:
    """(whether each document is held out, how many were moved back since they resemble a training document).

    The groups are those with the smallest hashes of the seed and their name, so few groups change sides when other
    rows are added. directory: with the edits. Raises Refusal no-rows, missing-column.
    """
    import numpy as np

    groups: dict[str, list[int]] = {}
    for number, id, row in written_rows(corpus, directory, alive):
        groups.setdefault(_group(id, row, config), []).append(number)
    held_out, wanted, count = np.zeros(len(corpus), bool), config.fraction * int(alive.sum()), 0
    for group in sorted(groups, key=lambda name: blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()):
        own = groups[group]
        if count + len(own) <= wanted:
            held_out[own] = True
            count += len(own)
    if not count or count == alive.sum():
        what = "documents" if config.group_by is None else f"groups by {config.group_by!r}"
        message = (
            f"curate.held_out.fraction: of {len(groups):,} {what}, {config.fraction:g} of the documents is "
        )
        message += "less than one" if not count else "all of them"
        fix = "change curate.held_out.fraction"
        raise refuse("no-rows", message, fix + (", or group by another column" if config.group_by else ""))
    of_group = {number: own for own in groups.values() for number in own if held_out[number]}
    moved = _move_back(corpus, config, alive, held_out, of_group, directory, bar)
    if not held_out.any():
        message = "every document that would be held out resembles a training document"
        fix = "add a near_duplicates step, or raise curate.held_out.similarity"
        raise refuse("no-rows", message, fix)
    return held_out, moved


def _group(id: str, row: dict[str, Any], config: HeldOut) -> str:
    """The name of a document's group."""
    if config.group_by is None:
        return id
    if config.group_by == FILE:
        return id.rpartition(":")[0]
    # A row without the column, such as one of a .txt file, is a group of its own.
    return str(row[config.group_by]) if config.group_by in row else id


def _move_back(
    corpus: Corpus,
    config: HeldOut,
    alive: np.ndarray,
    held_out: np.ndarray,
    of_group: dict[int, list[int]],
    directory: Path,
    bar: tqdm,
) -> int:
    """Move every held-out group with a near-duplicate among the training documents to these; returns the documents.

    What is moved is compared with what is still held out, in turn.
    """
    numbers, targets, texts = [], [], {}
    for number, _, row in written_rows(corpus, directory, held_out):
        text = words(text_of(row, "row"))
        numbers.append(number)
        targets.append(shingles(text, SHINGLE))
        texts[number] = text
    index, moved = index_of(targets), 0

    def resembling(text: list[str]) -> list[int]:
        """The held-out documents that a training document resembles."""
        if is_far(text, index, SHINGLE):
            return []
        mine = shingles(text, SHINGLE)
        near = [(n, len(mine & targets[n])) for n in candidates(mine, index, config.similarity)]
        return [
            numbers[n]
            for n, common in sorted(near)
            if jaccard(common, len(mine), len(targets[n])) >= config.similarity
        ]

    def move(text: list[str]) -> int:
        waiting, count = [text], 0
        while waiting:
            for number in resembling(waiting.pop()):
                for member in of_group[number] if held_out[number] else ():
                    held_out[member] = False
                    waiting.append(texts[member])
                    count += 1
        return count

    for _, _, row in written_rows(corpus, directory, alive & ~held_out):
        bar.update()
        moved += move(words(text_of(row, "row")))
    return moved
