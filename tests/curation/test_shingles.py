"""Targets finds the sets that a comparison of all pairs finds."""

import random

import numpy as np
import pytest

from lifecycle_recipes.curation.shingles import Targets, shingle_hashes, similarity


def texts(rng: random.Random, count: int) -> list[list[str]]:
    base = [rng.choice("abcdefgh") * rng.randint(1, 3) for _ in range(120)]
    made = []
    for _ in range(count):
        copy = list(base[: rng.choice([1, 2, 10, 60, 120])])
        for _ in range(rng.randrange(12)):
            copy[rng.randrange(len(copy))] = f"other{rng.random()}"
        made.append(copy)
    return made


@pytest.mark.parametrize("least", [0.5, 0.55, 0.8, 1.0])
def test_every_target_at_the_similarity_is_found(least):
    rng = random.Random(3)
    every_text = texts(rng, 100)
    sets = [shingle_hashes(text, 3) for text in [[], *every_text[:40]]]
    targets = Targets(sets, 3)
    found = 0
    for text in every_text[40:]:
        mine = shingle_hashes(text, 3)
        every = [(n, similarity(mine, other)) for n, other in enumerate(sets)]
        near = [(n, value) for n, value in every if value >= least]
        assert targets.near(mine, least) == near
        assert not (near and targets.are_far(text))
        found += len(near)
    assert found > 4


def test_a_similarity_of_exactly_the_least_counts():
    mine = np.arange(100, dtype=np.uint64)
    assert Targets([mine[:55]], 3).near(mine, 0.55) == [(0, 0.55)]


def test_without_targets_or_words_nothing_is_near():
    assert Targets([], 3).near(shingle_hashes(["a", "b", "c"], 3), 0.8) == []
    assert Targets([], 3).are_far(["a"] * 100) and Targets([], 3).are_far([])
    targets = Targets([shingle_hashes(["a", "b", "c"], 3)], 3)
    assert targets.near(shingle_hashes([], 3), 0.8) == []
    assert targets.near(shingle_hashes(["a", "b", "c"], 3), 0.8) == [(0, 1.0)]
    assert targets.are_far(["d"] * 100) and not targets.are_far(["a", "b", "c"])
