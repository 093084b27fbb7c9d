"""Which rows a seed picks: in one place, so that a check before the run sees the rows of the run.

As `Dataset.shuffle(seed).select(...)` and `Dataset.train_test_split(test_size, seed)` of datasets 5.2 choose
them (arrow_dataset.py); numpy only, since a check must not wait for an import of datasets.
"""

import math


def sample(rows: int, max_rows: int | None, seed: int) -> list[int] | None:
    """Indices of a seeded sample of `max_rows` out of `rows`, in the order of training; None for all rows."""
    if max_rows is None or max_rows >= rows:
        return None
    return _permutation(rows, seed)[:max_rows]


def split(rows: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(train, held-out) indices: at least `fraction` of `rows` held out, rounded up to a whole row."""
    order, held_out = _permutation(rows, seed), math.ceil(fraction * rows)
    return order[held_out:], order[:held_out]


def _permutation(rows: int, seed: int) -> list[int]:
    import numpy as np

    return np.random.default_rng(seed).permutation(rows).tolist()
