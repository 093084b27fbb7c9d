"""Win rates, plain and with length controlled."""

import random

import pytest

from lifecycle_recipes.evals.compare import length_controlled_win_rate


def games(n: int, win_by_length: float, win_by_merit: float):
    """(scores, scores against, lengths, lengths against) of n prompts; every second reply is longer."""
    chance = random.Random(1)
    scores, lengths = [], []
    for i in range(n):
        longer = i % 3 != 0
        won = chance.random() < 0.5 + win_by_merit + (win_by_length if longer else -win_by_length)
        scores.append(float(won))
        lengths.append(150 if longer else 50)
    return scores, [0.5] * n, lengths, [100] * n


def test_what_length_wins_is_taken_out():
    scores, against, lengths, others = games(3000, win_by_length=0.3, win_by_merit=0.0)
    assert sum(scores) / 3000 > 0.57  # longer replies are more, and win more
    assert length_controlled_win_rate(scores, against, lengths, others) == pytest.approx(0.5, abs=0.03)


def test_what_merit_wins_stays():
    scores, against, lengths, others = games(3000, win_by_length=0.0, win_by_merit=0.2)
    assert length_controlled_win_rate(scores, against, lengths, others) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(("won", "rate"), [(1.0, 1.0), (0.0, 0.0)])
def test_who_always_wins_wins_at_equal_length_too(won, rate):
    assert length_controlled_win_rate([won] * 4, [0.5] * 4, [1, 2, 3, 4], [2] * 4) == rate


def test_equal_lengths_leave_the_plain_rate():
    assert length_controlled_win_rate([1, 0, 1, 1], [0.5] * 4, [9] * 4, [9] * 4) == 0.75


def test_length_that_tells_winners_from_losers_gives_a_number():
    rate = length_controlled_win_rate([1, 1, 0, 0], [0.5] * 4, [20, 20, 5, 5], [10] * 4)
    assert 0.3 < rate < 0.7


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (games(3000, win_by_length=0.3, win_by_merit=0.0), 0.477719868),
        (games(3000, win_by_length=0.0, win_by_merit=0.2), 0.696750056),
        (([1, 1, 0, 0], [0.5] * 4, [20, 20, 5, 5], [10] * 4), 0.313767230),
        (([1, 0, 0, 0.5], [0.5] * 4, [20, 10, 5, 5], [10] * 4), 0.398757472),  # with a tie
    ],
)
def test_the_fit_is_the_optimum(given, rate):
    """Digits of Newton's method run to 1e-9 on the same likelihood and ridge."""
    assert length_controlled_win_rate(*given) == pytest.approx(rate, abs=1e-7)
