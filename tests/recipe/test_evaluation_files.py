"""Which evaluation data the recipes of a life name: curation tests its documents against it."""

import shutil
from pathlib import Path

import pytest
import yaml
from repository import ROOT

from lifecycle_recipes.recipe.evaluation_files import find_evaluation_files
from lifecycle_recipes.recipe.read import read_recipe

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
    return {Path(found).stem for found in find_evaluation_files(desk / "04-sft.yaml")}


def test_every_set_of_the_life_is_found_once_and_no_training_data(desk):
    found = find_evaluation_files(desk / "04-sft.yaml")
    assert sorted(Path(one).stem for one in found) == sorted(DESK_SETS)
    # The data of tasks is named relative to the working directory, too, although lm-eval needs it absolute.
    assert all(not Path(one).is_absolute() for one in found)


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


def against(desk: Path, **decontamination) -> set[str]:
    """The sets of the step in the recipe as it is read."""
    recipe = {
        "stage": "curate",
        "data": {"sources": [{"path": "data/desk/world/raw.jsonl"}]},
        "curate": {"output_dir": "runs/desk/01", "steps": [{"decontamination": decontamination}]},
    }
    (desk / "01-curate.yaml").write_text(yaml.safe_dump(recipe))
    step = read_recipe(desk / "01-curate.yaml").values["curate"]["steps"][0]["decontamination"]
    return {Path(path).stem for path in step.get("against", [])}


def test_a_curate_recipe_is_tested_against_the_evaluation_data_of_its_life(desk):
    assert against(desk) == set(DESK_SETS)
    assert against(desk, leave=["data/desk/world/wiki_*.jsonl"]) == set(DESK_SETS) - {"wiki_heldout"}
    given = "data/desk/world/wiki.jsonl"
    assert against(desk, against=[given]) == {*DESK_SETS, "wiki"}
    assert against(desk, against=[given], life=False) == {"wiki"}
