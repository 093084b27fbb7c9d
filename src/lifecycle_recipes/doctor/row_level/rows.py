"""Level 2, rows: faults of the rows, checked before a tokenizer or a model is loaded."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ...data.config import stage_columns
from ...data.row_faults import Faults, misleading_fault, row_fault, waived_fault
from ...data.row_sets import RowSet, read_row_sets
from ...finding import Finding
from .overlap import find_duplicates, find_overlap
from .pairs import find_in_labels, find_in_pairs

if TYPE_CHECKING:
    from ...recipe.read import RawRecipe

__all__ = ["RowSet", "find_in_rows", "read_row_sets", "sound_sets"]


def find_in_rows(raw: RawRecipe, row_sets: list[RowSet]) -> list[Finding]:
    """All findings in the row sets of a RawRecipe: faulty rows first, then faults of a whole set."""
    files: dict[str, list[RowSet]] = {}
    for row_set in row_sets:
        files.setdefault(row_set.path, []).append(row_set)
    findings = [finding for same in files.values() for finding in find_faults(raw, same)]
    sound = sound_sets(raw, row_sets)
    findings += find_nothing(raw, sound) if not findings else []
    findings += find_duplicates(sound)
    findings += find_overlap(sound)
    if raw.stage in ("reward", "dpo"):
        findings += find_in_pairs(raw.values["train"], sound)
    if raw.stage == "kto":
        findings += find_in_labels(raw.values["train"], sound)
    return findings


def count_rows(row_sets: list[RowSet]) -> dict[str, str]:
    """`train` and `eval` -> number of rows, such as `8,000`, or `over 8,000` if a source was read in part."""
    counts = {}
    for use in ("train", "eval"):
        if mine := [row_set for row_set in row_sets if row_set.use == use]:
            over = "over " if any(row_set.partly for row_set in mine) else ""
            counts[use] = f"{over}{sum(len(row_set.rows) for row_set in mine):,}"
    return counts


def find_nothing(raw: RawRecipe, row_sets: list[RowSet]) -> list[Finding]:
    """`no-rows` for a use whose sources contain no usable row."""
    uses = {"train": "data.sources", "eval": "data.eval_sources"}
    empty = [
        u for u in uses if (mine := [s for s in row_sets if s.use == u]) and not any(s.rows for s in mine)
    ]
    return [
        Finding(
            "no-rows",
            "error",
            f"no rows are left to {use} on",
            f"give a source with rows in {uses[use]}",
            ", ".join(s.path for s in row_sets if s.use == use),
        )
        for use in empty
    ]


def find_faults(raw: RawRecipe, same: list[RowSet]) -> list[Finding]:
    """One finding per kind of faulty row, at the first one, with the numbers of the others, in the file's order.

    same: the row sets of one source: of its training rows and, with data.eval_fraction, of its held-out rows.
    """
    required, _ = stage_columns(raw.stage, raw.values)
    plain = raw.stage in ("pretrain", "tokenizer")  # rows of text contain no conversation
    found = []
    for row_set in same:
        for i, row in enumerate(row_set.rows):
            if fault := row_fault(row, required) or (None if plain else misleading_fault(row)):
                found.append((row_set.place(i), row_set.label(i), fault, row))
    found.sort(key=lambda one: (one[0].path, one[0].number))
    faults = Faults(same[0].unit, required)
    for one, before in zip(found, [None, *found], strict=False):
        if one != before:  # a file that is listed twice
            place, label, fault, row = one
            faults.add(*fault, str(place), label, row)
    return faults.findings()


def sound_sets(raw: RawRecipe, row_sets: list[RowSet]) -> list[RowSet]:
    """The row sets without rows that cannot be trained on or that the recipe leaves out by a waiver."""
    required, _ = stage_columns(raw.stage, raw.values)
    return [_sound(row_set, required, raw.allow) for row_set in row_sets]


def _sound(row_set: RowSet, required: list[str], allow: Collection[str]) -> RowSet:
    kept = [
        i
        for i, row in enumerate(row_set.rows)
        if not row_fault(row, required) and not waived_fault(row, allow)
    ]
    return row_set if len(kept) == len(row_set.rows) else row_set.pick(kept, row_set.use)
