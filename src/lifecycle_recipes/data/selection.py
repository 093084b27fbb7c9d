"""Which columns and rows of a source a run uses, and in which order.

The run (sources.py) and the checks before it (row_sets.py) both use this module, so that a check reads the
rows of the run. Both use `row_faults.why_left_out` to leave out rows with a fault.

Samples equal those of `Dataset.shuffle(seed).select(...)` in datasets 5.2 (arrow_dataset.py). Splits equal those of
`Dataset.train_test_split(test_size, seed)` if no two rows are equal. Numpy only: importing datasets would slow down
every check.
"""

import math
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from ..finding import refuse
from .config import DataConfig, Source
from .formats import fitting, format_columns
from .row_faults import CONVERSATIONS
from .row_files import ending_of, find_files, plain_ending, plain_endings


def name_columns(
    source: Source,
    required: list[str],
    optional: list[str],
    has: list[str],
    rows: Sequence[dict] = (),
    partly: bool = False,
    path: str = "",
) -> dict[str, str]:
    """{the format's name: the source's name} of the columns to read.

    required, optional: of the stage. rows: some of the source, from which the fix is found. partly: `has` is of
    its first rows only, and an optional column may come later. path: the file, for a source of several.
    Raises Refusal: missing-column, unread-column, column-read-twice, and what `format_columns` raises.
    """
    ours = required
    required, optional = format_columns(source, required, optional)
    if unread := [c for c in source.columns if c not in (*required, *optional)]:
        reads = ", ".join(map(repr, [*required, *optional]))
        kind = "this stage" if source.format == "messages" else f"format: {source.format} of this stage"
        raise refuse(
            "unread-column",
            f"data.sources[].columns names {unread[0]!r}, which {kind} does not read",
            f"{kind} reads {reads}: write one of these on the left of the colon",
            source.path,
        )
    wanted = {c: source.columns.get(c, c) for c in (*required, *optional)}
    needed = {c: name for c, name in wanted.items() if c in required or source.columns.get(c)}
    missing = {c: n for c, n in needed.items() if n not in has and not (partly and c in optional)}
    if missing and "completion" in needed and {"chosen", "rejected"} <= set(has):
        raise refuse(
            "missing-column",
            f"no column {', '.join(map(repr, missing.values()))}: these are pairs, which the kto stage does not read",
            "train on them with the dpo stage, or write each pair as two rows: chosen with `label: true` and "
            "rejected with `label: false`",
            source.path,
        )
    if missing:
        maps = ", ".join(f"{column}: <its name>" for column in missing)
        raise refuse(
            "missing-column",
            f"no column {', '.join(map(repr, missing.values()))}; it has {', '.join(map(repr, has))}",
            _other_files(source, path)
            or fitting(source, rows, has, ours)
            or f"map the column name: `columns: {{{maps}}}`, or use another file",
            path or source.path,
        )
    found = {c: name for c, name in wanted.items() if name in has}
    if twice := [c for c, name in found.items() if c != name and list(found.values()).count(name) > 1]:
        message = f"the column {found[twice[0]]!r} would be read twice, once as {twice[0]!r}"
        raise refuse(
            "column-read-twice", message, "map each column of `columns` to a different column", source.path
        )
    return found


def _other_files(source: Source, path: str) -> str:
    """The pattern that leaves out a file of a directory, such as a README.txt; empty if all have its ending."""
    if not os.path.isdir(source.path):
        return ""
    others = [file for file in find_files(source.path) if plain_ending(file) != plain_ending(path)]
    if not path or not others:
        return ""
    return f"to leave this file out, give a pattern: `path: {os.path.join(source.path, '*' + ending_of(others[0]))}`"


def text_columns(columns: list[str]) -> list[str]:
    """The columns among a stage's `columns` that hold plain text."""
    return [c for c in columns if c not in (*CONVERSATIONS, "label")]


def choose_rows(
    rows: Sequence[dict], texts: list[str], max_rows: int | None, seed: int
) -> tuple[list[int], int]:
    """(indices of the rows of one source that are used, in training order; how many are blank).

    A row with a blank text in a column of `texts` is left out: it has no loss, but unlike a null it is not a
    fault. `max_rows` of the other rows are sampled.
    """
    blank = {i for i, row in enumerate(rows) if _is_blank(row, texts)} if texts else set()
    kept = [i for i in range(len(rows)) if i not in blank]
    chosen = sample(len(kept), max_rows, seed)
    return kept if chosen is None else [kept[i] for i in chosen], len(blank)


def _is_blank(row: dict, texts: list[str]) -> bool:
    return any(isinstance(text := row.get(c), str) and not text.strip() for c in texts)


def sample(rows: int, max_rows: int | None, seed: int) -> list[int] | None:
    """Indices of a seeded sample of `max_rows` out of `rows`, in training order; None for all rows."""
    if max_rows is None or max_rows >= rows:
        return None
    return _permutation(rows, seed)[:max_rows]


def content(row: dict) -> str:
    """The content of a row as one string; rows are equal if their strings are."""
    parts = []
    for column in sorted(row):
        value = row[column]
        if isinstance(value, str | bool):
            parts.append(f"{column}\x1d{str(value).strip()}")
        elif isinstance(value, list) and column != "tools":
            parts.append(f"{column}\x1d" + "\x1e".join(map(_turn, value)))
    return "\x1c".join(parts)


def _turn(message: Any) -> str:
    if not isinstance(message, dict):
        return str(message)
    return f"{message.get('role')}\x1f{message.get('content') or ''}{message.get('tool_calls') or ''}"


def hold_out(config: DataConfig, keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """(train, held-out) indices of the joined rows of `config.sources`, by `eval_fraction`.

    keys: one per row; equal rows have equal keys. Neighbouring parts of a text resemble each other: of .txt files
    alone, the last part is held out.
    """
    if all(plain_endings(source.path) == {".txt"} for source in config.sources):
        kept = len(keys) - math.ceil(config.eval_fraction * len(keys))
        return list(range(kept)), list(range(kept, len(keys)))
    return split(keys, config.eval_fraction, config.seed)


def split(keys: Sequence[Hashable], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(train, held-out) indices; the held-out rows are `fraction` of the rows, rounded up.

    Rows with equal keys are on the same side, so that no held-out row is trained on. Where they do not fit, fewer
    rows are held out; at least one row and its equals are.
    """
    order, wanted = _permutation(len(keys), seed), math.ceil(fraction * len(keys))
    rows, held_out, count = Counter(keys), set(), 0
    for i in order:
        if keys[i] not in held_out and count + rows[keys[i]] <= wanted:
            held_out.add(keys[i])
            count += rows[keys[i]]
    if wanted and not held_out:
        held_out.add(keys[min(order, key=lambda i: rows[keys[i]])])
    return [i for i in order if keys[i] not in held_out], [i for i in order if keys[i] in held_out]


def _permutation(rows: int, seed: int) -> list[int]:
    import numpy as np

    return np.random.default_rng(seed).permutation(rows).tolist()
