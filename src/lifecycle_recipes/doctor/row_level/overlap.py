"""Duplicate rows: within the training rows, and between training rows and held-out rows.

Candidates for a near-duplicate come from an inverted index of the held-out rows; their exact Jaccard
similarity decides. Unverified candidates from locality-sensitive hashing would include dissimilar rows.
"""

import os
from collections.abc import Iterator
from functools import lru_cache

from ...curation.shingles import Targets, shingle_hashes
from ...curation.words import words as words_of
from ...data.row_faults import listed
from ...data.row_sets import RowSet
from ...data.selection import content
from ...finding import Finding, Refusal
from ...record.file import LEDGER_FILE, read_record

SHINGLE = 3  # words; with one changed word in thirty, the similarity of a chat row stays above NEAR
NEAR = 0.8  # smallest Jaccard similarity of shingle sets of a near-duplicate
FEWEST = 20  # words; in a shorter row, a different last word can make it a different question
# Smallest share of repeated training rows that is reported: a few do no harm.
REPEATS = 0.01


def words(row: dict) -> list[str]:
    """The words of a row in lower case, without the names of roles."""
    texts = []
    for value in row.values():
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            texts += [
                m["content"] for m in value if isinstance(m, dict) and isinstance(m.get("content"), str)
            ]
    return words_of(" ".join(texts))


def find_duplicates(row_sets: list[RowSet]) -> list[Finding]:
    """`duplicate-rows` (warning) if at least the share REPEATS of the training rows equals an earlier row.

    A file that is listed twice is meant to be used twice: its rows are not duplicates of themselves. Nor are those of
    a curated mixture that repeats a source.
    """
    first: dict[str, tuple[str, str]] = {}  # content -> (place, file) of the first row that has it
    again: list[tuple[str, str]] = []
    seen: set[str] = set()
    for row_set, i in _rows(row_sets, "train"):
        where = row_set.where(i)
        if where in seen:
            continue
        seen.add(where)
        key = content(row_set.rows[i])
        file = row_set.place(i).path
        if key not in first:
            first[key] = where, file
        elif first[key][1] != file or not _repeats(os.path.dirname(file)):
            again.append((where, first[key][0]))
    if not again or len(again) < REPEATS * len(seen):
        return []
    where, original = again[0]
    share = len(again) / len(seen)
    message = f"{len(again)} of {read_of(row_sets, 'train')} ({share:.1%}) are duplicates of an earlier row"
    return [
        Finding(
            "duplicate-rows",
            "warning",
            f"{message}; the first duplicates {original}",
            "remove the duplicates; to train on rows more often, raise num_train_epochs",
            where,
        )
    ]


@lru_cache(maxsize=64)
def _repeats(directory: str) -> bool:
    """Whether the rows in a directory are a curated mixture that repeats some of them."""
    if not os.path.isfile(os.path.join(directory, LEDGER_FILE)):
        return False
    try:
        return bool(read_record(directory)["metrics"].get("rows_repeated"))
    except (Refusal, KeyError):
        return False


def find_overlap(row_sets: list[RowSet]) -> list[Finding]:
    """`eval-overlap` (error), `eval-near-overlap` (warning): held-out rows among the training rows."""
    held_out = [(s, i, content(s.rows[i])) for s, i in _rows(row_sets, "eval")]
    if not held_out:
        return []
    total = read_of(row_sets, "eval")
    wanted = {key for _, _, key in held_out}
    trained: dict[str, str] = {}
    for row_set, i in _rows(row_sets, "train"):
        if (key := content(row_set.rows[i])) in wanted:
            trained.setdefault(key, row_set.where(i))
    equal = [(s, i, trained[key]) for s, i, key in held_out if key in trained]
    rest = [(s, i) for s, i, key in held_out if key not in trained]
    return [
        *_overlap("eval-overlap", "error", equal, total, "are also training rows", "equals"),
        *_overlap(
            "eval-near-overlap",
            "warning",
            [
                (s, i, f"{where} ({similarity:.2f})")
                for s, i, where, similarity in near_copies(row_sets, rest)
            ],
            total,
            f"are near-duplicates of a training row (Jaccard >= {NEAR})",
            "is similar to",
        ),
    ]


def _overlap(code, severity, found: list, total: str, what: str, relation: str) -> list[Finding]:
    if not found:
        return []
    row_set, i, original = found[0]
    message = f"{len(found)} of {total} {what}{numbers_of(found)}; the first {relation} {original}"
    if severity == "error":
        fix = "remove them from data.sources, or from the held-out rows: a score on training rows does not measure "
        fix += "generalisation; `allow: {eval-overlap: reason}` keeps them on both sides"
        if row_set.path.endswith(".txt") and row_set.lines:
            fix = "each line of a .txt is a row: set `text_by: paragraph` on the source, or remove the lines"
    else:
        fix = "inspect them, and remove those with the same content from data.sources"
    return [Finding(code, severity, message, fix, row_set.where(i))]


def numbers_of(found: list) -> str:
    """` (lines 3, 9)`: the rows of `found` in the source of the first one, which is the place of the finding.

    Rows in other sources are counted; empty for a single row. found: (set, index, ...) per row.
    """
    row_set = found[0][0]
    numbers = [s.label(i) for s, i, *_ in found if s is row_set]
    more = f", and {len(found) - len(numbers)} in other sources" if len(found) > len(numbers) else ""
    return f" ({row_set.unit} {listed(numbers)}{more})" if len(found) > 1 else ""


def read_of(row_sets: list[RowSet], use: str) -> str:
    """`400 held-out rows`, with a note if a large file was read in part."""
    mine = [s for s in row_sets if s.use == use]
    kind = "training" if use == "train" else "held-out"
    partly = " read (a large file is read in part)" if any(s.partly for s in mine) else ""
    return f"{sum(len(s.rows) for s in mine)} {kind} rows{partly}"


def near_copies(row_sets: list[RowSet], held_out: list) -> list[tuple[RowSet, int, str, float]]:
    """(set, index, place of the nearest training row, Jaccard) of held-out rows with a near-duplicate."""
    texts = (words(s.rows[i]) for s, i in held_out)
    sets = [shingle_hashes(text if len(text) >= FEWEST else [], SHINGLE) for text in texts]
    targets = Targets(sets, SHINGLE)
    best: dict[int, tuple[float, str]] = {}
    for row_set, i in _rows(row_sets, "train"):
        text = words(row_set.rows[i])
        if targets.are_far(text):
            continue
        for n, similarity in targets.near(shingle_hashes(text, SHINGLE), NEAR):
            if similarity > best.get(n, (0, ""))[0]:
                best[n] = similarity, row_set.where(i)
    return [(*held_out[n], where, similarity) for n, (similarity, where) in sorted(best.items())]


def _rows(row_sets: list[RowSet], use: str) -> Iterator[tuple[RowSet, int]]:
    return ((s, i) for s in row_sets if s.use == use for i in range(len(s.rows)))
