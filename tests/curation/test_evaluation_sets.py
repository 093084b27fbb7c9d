"""What counts as an item of evaluation data."""

import gzip
import json
from pathlib import Path

import pytest

from lifecycle_recipes.curation.evaluation_sets import read_items
from lifecycle_recipes.finding import Refusal


def items_of(path: Path, *rows: dict) -> list[tuple[int, str]]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [(item.line, item.text) for item in read_items(str(path))]


def test_a_question_is_an_item_and_ids_labels_and_answers_are_not(tmp_path):
    row = {
        "id": "a-1",
        "question": "Where does the river Ven begin?",
        "subject": "geography of the north and the south of it",
        "choices": ["Oru", "Tal"],
        "answer": "The river Ven begins in Oru, at the foot of the hills.",
    }
    assert items_of(tmp_path / "q.jsonl", row) == [(1, "Where does the river Ven begin?")]


def test_of_a_conversation_the_user_messages_are_items(tmp_path):
    talk = [
        {"role": "system", "content": "You are a patient and kind assistant of the port."},
        {"role": "user", "content": [{"type": "text", "text": "When does the ferry leave?"}]},
        {"role": "assistant", "content": "It leaves at nine from the second pier."},
        {"role": "user", "content": "Thanks a lot!"},
        {"role": "user", "content": "And is there any room left for two bicycles?"},
    ]
    asked = ["When does the ferry leave?", "And is there any room left for two bicycles?"]
    assert items_of(tmp_path / "m.jsonl", {"messages": talk}) == [(1, text) for text in asked]
    share = [{"from": "human", "value": "When does the ferry leave?"}, {"from": "gpt", "value": "At nine."}]
    assert items_of(tmp_path / "s.jsonl", {"conversations": share}) == [(1, asked[0])]
    turns = {"prompt": ["When does the ferry leave?"], "completion": "At nine."}
    assert items_of(tmp_path / "t.jsonl", turns) == [(1, asked[0])]


def test_a_question_that_rows_share_or_that_is_too_short_is_an_item_with_its_choices(tmp_path):
    rows = [
        {"question": "Which of these is true?", "choices": ["Iron floats", "Iron rusts"]},
        {
            "question": "Which of these is true?",
            "choices": {"text": ["Gold rusts", "Gold bends"], "label": ["A", "B"]},
        },
        {"question": "Why?", "answer": "Because the moon pulls at the sea."},
    ]
    texts = [text for _, text in items_of(tmp_path / "c.jsonl", *rows)]
    assert texts[0] == "Which of these is true?\nIron floats\nIron rusts"
    assert texts[1] == "Which of these is true?\nGold rusts\nGold bends"
    assert texts[2] == "Why?\nBecause the moon pulls at the sea."
    # The same row twice is no template.
    assert items_of(tmp_path / "d.jsonl", rows[0], rows[0])[0] == (1, "Which of these is true?")


def test_unknown_columns_are_items_where_they_hold_prose(tmp_path):
    row = {"frage": "Wo beginnt der Fluss Ven, und wie lang ist er bis zum Meer?", "thema": "Fluss im Norden"}
    assert [text for _, text in items_of(tmp_path / "u.jsonl", row)] == [row["frage"]]


def test_items_have_the_line_of_their_file(tmp_path):
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"question": "one two three four"}\n\n{"question": "five six seven"}\n'))
    assert [item.line for item in read_items(str(path))] == [1, 3]


def test_a_damaged_set_is_refused_by_its_line(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "one two three four"}\n{"question": \n')
    with pytest.raises(Refusal) as refused:
        read_items(str(path))
    assert refused.value.findings[0].code == "bad-line" and "q.jsonl:2" in refused.value.findings[0].where
