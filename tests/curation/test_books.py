"""The books of curation: a row that is lost or counted twice ends the stage."""

import pytest

from lifecycle_recipes.curation.ledger import Books, check_steps
from lifecycle_recipes.finding import FAILED, Refusal


def books(step: str, stay: int, leave: int, source: str = "a") -> Books:
    made = Books(step)
    made.stay(source, stay, 10 * stay, 3 * stay)
    made.leave_out(source, ("reason", "another"), leave, 10 * leave, 3 * leave)
    return made


def test_books_that_balance():
    edits = Books("edits")
    edits.edit("a", (10, 3), (4, 1))
    edits.repeat("a", 1, 4, 1)
    assert edits.as_json(["a"])["sources"]["a"]["edited"] == [1, -6, -2]
    check_steps([book.as_json(["a", "b"]) for book in (books("read", 3, 2), books("step", 1, 2), edits)])


def lost_in_a_step() -> list[dict]:
    step = books("step", 2, 1).as_json(["a"])
    step["sources"]["a"]["in"][0] += 1
    return [step]


def lost_between_steps() -> list[dict]:
    return [book.as_json(["a"]) for book in (books("read", 3, 0), books("step", 2, 0))]


def tokens_lost() -> list[dict]:
    step = books("step", 2, 1).as_json(["a"])
    step["sources"]["a"]["out"][2] -= 1
    return [step]


@pytest.mark.parametrize("steps", [lost_in_a_step, lost_between_steps, tokens_lost])
def test_books_that_do_not(steps):
    with pytest.raises(Refusal, match="books-unbalanced") as refused:
        check_steps(steps())
    assert refused.value.status == FAILED and "a:" in str(refused.value)
