"""Held-out documents: whole groups, and none that resembles a training document."""

import random

from curated import curate, write_rows
from exact_shingles import shingles

from lifecycle_recipes.curation.words import words

RANDOM = random.Random(5)
VOCABULARY = [f"term{n}" for n in range(2000)]


def text(length: int = 40) -> list[str]:
    return [RANDOM.choice(VOCABULARY) for _ in range(length)]


def test_chunks_of_one_document_are_on_one_side(tmp_path):
    rows = [{"text": " ".join(text()), "page": f"p{n // 5}"} for n in range(500)]
    file = write_rows(tmp_path / "a.jsonl", rows)
    done = curate(tmp_path, [file], keep=["page"], held_out={"fraction": 0.1, "group_by": "page"})
    sides = {row["page"] for row in done.train}, {row["page"] for row in done.rows("held_out")}
    assert not sides[0] & sides[1]
    assert len(done.rows("held_out")) == 50 and not done.record["findings"]


def test_groups_that_are_too_large_for_the_fraction_are_reported(tmp_path):
    rows = [{"text": " ".join(text()), "page": "all" if n < 80 else f"p{n}"} for n in range(100)]
    file = write_rows(tmp_path / "a.jsonl", rows)
    done = curate(tmp_path, [file], keep=["page"], held_out={"fraction": 0.5, "group_by": "page"})
    assert len(done.rows("held_out")) == 20
    (finding,) = done.record["findings"]
    assert (
        finding["code"] == "held-out-too-few"
        and "20 of 100" in finding["message"]
        and "50" in finding["message"]
    )


def test_no_held_out_document_resembles_a_training_document(tmp_path):
    rows = []
    for _ in range(200):
        base = text()
        rows.append(" ".join(base))
        for _ in range(RANDOM.choice([0, 0, 1, 3])):  # similar, but not enough for the near-duplicate step
            changed = list(base)
            changed[RANDOM.randrange(40)] = "changed"
            rows.append(" ".join(changed))
    file = write_rows(tmp_path / "a.jsonl", [{"text": row} for row in rows])
    done = curate(tmp_path, [file], held_out={"fraction": 0.2, "similarity": 0.7})
    held_out = [shingles(words(row["text"]), 3) for row in done.rows("held_out")]
    train = [shingles(words(row["text"]), 3) for row in done.train]
    closest = max(len(a & b) / len(a | b) for a in held_out for b in train)
    assert closest < 0.7
    assert done.ledger["held_out"]["moved_back"] > 0
    assert len(train) + len(held_out) == len(rows)


def test_few_groups_change_sides_when_rows_are_added(tmp_path):
    rows = [{"text": " ".join(text())} for _ in range(300)]
    file = write_rows(tmp_path / "a.jsonl", rows)
    first = {row["id"] for row in curate(tmp_path, [file], held_out={"fraction": 0.1}).rows("held_out")}
    write_rows(tmp_path / "a.jsonl", rows + [{"text": " ".join(text())} for _ in range(30)])
    again = {
        row["id"]
        for row in curate(tmp_path, [file], "--replace", held_out={"fraction": 0.1}).rows("held_out")
    }
    assert len(first & again) >= 0.85 * len(first)
