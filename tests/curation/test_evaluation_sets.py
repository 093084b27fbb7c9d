"""Which evaluation data the recipes of a life name, and what counts as an item of it."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from repository import ROOT

from lifecycle_recipes.curation.evaluation_sets import find_evaluation_sets, read_items
from lifecycle_recipes.finding import Refusal

DESK_SETS = "facts requests_heldout wiki_heldout sft_eval pairs_eval pairs_broken_eval thumbs_eval".split()


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """The desk's recipes and tasks, over empty files of its data."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes/desk", "recipes/desk")
    shutil.copytree(ROOT / "data/desk/tasks", "data/desk/tasks")
    Path("data/desk/world").mkdir()
    for name in (*DESK_SETS, "sft_train", "wiki"):
        Path(f"data/desk/world/{name}.jsonl").write_text('{"text": "a row"}\n')
    return Path("recipes/desk")


def names(desk: Path) -> set[str]:
    return {Path(found.path).stem for found in find_evaluation_sets(desk / "04-sft.yaml")}


def items_of(path: Path, *rows: dict) -> list[tuple[int, str]]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [(item.line, item.text) for item in read_items(str(path))]


def test_every_set_of_the_life_is_found_once_and_no_training_data(desk):
    found = find_evaluation_sets(desk / "04-sft.yaml")
    assert sorted(Path(one.path).stem for one in found) == sorted(DESK_SETS)
    assert all(one.named.startswith("recipes/desk/") and ":" in one.named for one in found)
    # The data of tasks is named relative to the working directory, too, although lm-eval needs it absolute.
    assert all(not Path(one.path).is_absolute() for one in found)


def test_a_set_that_does_not_exist_and_one_that_a_stage_writes_are_no_sets(desk):
    Path("data/desk/world/facts.jsonl").unlink()
    recipe = desk / "04-sft.yaml"
    Path("runs/desk/04-sft").mkdir(parents=True)
    Path("runs/desk/04-sft/held.jsonl").write_text('{"text": "a row"}\n')
    recipe.write_text(
        recipe.read_text().replace("data/desk/world/sft_eval.jsonl", "runs/desk/04-sft/held.jsonl")
    )
    assert "facts" not in names(desk) and "held" not in names(desk)


def test_recipes_and_tasks_that_cannot_be_read_are_skipped(desk):
    (desk / "00-broken.yaml").write_text("stage: sft\nmodle: {}\n")
    assert names(desk) == set(DESK_SETS)
    Path("data/desk/tasks/zz.yaml").write_text("task: [")
    assert names(desk) == set(DESK_SETS) - {"facts"}


def test_the_training_split_of_a_task_is_no_evaluation_data(desk):
    task = Path("data/desk/tasks/desk_facts.yaml")
    files = "    test: ../world/facts.jsonl\n    train: ../world/sft_train.jsonl\n"
    task.write_text(task.read_text().replace("    test: ../world/facts.jsonl\n", files))
    assert "facts" in names(desk) and "sft_train" not in names(desk)


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
