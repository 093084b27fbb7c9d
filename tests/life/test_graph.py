"""The graph of a life: which stage needs which, in which order, and what has no order."""

from pathlib import Path

import pytest
from clone import LIFE, VARIANTS
from repository import ROOT
from small_life import NAMES, write_life, write_recipe

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.life.graph import read_life, split_overrides, stage_names
from lifecycle_recipes.life.plan import Selection, select


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_life()


def refused(*arguments) -> dict[str, str]:
    """code -> place and message of what `read_life` refuses."""
    with pytest.raises(Refusal) as refusal:
        read_life(*arguments)
    return {finding.code: f"{finding.where} {finding.message}" for finding in refusal.value.findings}


def needs(places=("life",)) -> dict[str, list[str]]:
    return {stage.name: stage.parents for stage in read_life(list(places), [])}


def test_a_stage_needs_its_parents_and_the_runs_of_its_gate():
    expected = {"03-base": [], "04-sft": ["03-base"], "05-side": ["04-sft"], "07-dpo": ["03-base", "04-sft"]}
    assert needs() == expected
    # From files, whatever their order.
    files = [f"life/{name}.yaml" for name in ("07-dpo", "05-side", "04-sft", "03-base")]
    assert list(needs(files)) == ["03-base", "04-sft", "07-dpo", "05-side"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rows.jsonl", "runs/05-side/made.jsonl"),
        ("model_name_or_path: runs/03-base", "model_name_or_path: runs/05-side/checkpoint-2"),
        ("max_steps: 2", "chat_template_path: runs/05-side/chat_template.jinja"),
        ("gate:", "evaluate: {against: runs/05-side}\ngate:"),
        ("gate:", "evaluate: {reward_model: ../lnk/runs/05-side}\ngate:"),
        ("steps >= 04-sft/steps", "eval_rewards/margins > 05-side/steps"),
    ],
)
def test_every_path_in_a_recipe_is_an_edge(tmp_path, old, new):
    (tmp_path.parent / "lnk").unlink(missing_ok=True)
    (tmp_path.parent / "lnk").symlink_to(tmp_path)
    file = Path("life/07-dpo.yaml")
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert "05-side" in needs()["07-dpo"]


def test_the_desk_is_in_the_order_of_its_names(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = read_life(["recipes/desk"], [])
    chosen = select(stages, Selection(until=["06-ppo", "08-kto", "11-export"]))
    assert [stage.name for stage in chosen] == LIFE
    variants = [stage.name for stage in select(stages, Selection(until=VARIANTS))]
    assert variants == [*LIFE[:4], "04-sft-lora", "04-sft-qlora", "05-reward", "07-dpo-lora"]


def test_a_cycle_is_shown_as_one():
    write_recipe("03-base", "runs/05-side")
    found = refused(["life"], [])
    assert list(found) == ["parent-cycle"]
    assert "03-base -> 05-side -> 04-sft -> 03-base" in found["parent-cycle"]


def test_two_recipes_with_one_output_dir_are_both_named():
    Path("life/06-copy.yaml").write_text(Path("life/05-side.yaml").read_text())
    found = refused(["life"], [])
    assert list(found) == ["output-dir-shared"]
    assert found["output-dir-shared"].startswith(
        "life/06-copy.yaml:5 life/05-side.yaml and life/06-copy.yaml"
    )


def test_the_mistakes_of_all_recipes_are_refused_together():
    for name in ("03-base", "07-dpo"):
        file = Path(f"life/{name}.yaml")
        file.write_text(
            file.read_text().replace("max_steps", "max_step" if name == "03-base" else "max_stepz")
        )
    with pytest.raises(Refusal) as refusal:
        read_life(["life"], [])
    assert [finding.where for finding in refusal.value.findings] == [
        "life/03-base.yaml:6",
        "life/07-dpo.yaml:6",
    ]


def test_a_directory_without_recipes_is_refused():
    Path("none").mkdir()
    assert refused(["none"], []) == {"missing-recipe": "none the directory contains no recipe"}


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({}, NAMES),
        ({"until": ["04-sft"]}, ["03-base", "04-sft"]),
        ({"until": ["05-side", "04-sft"]}, ["03-base", "04-sft", "05-side"]),
        ({"start": ["04-sft"]}, ["04-sft", "05-side", "07-dpo"]),
        ({"start": ["04-sft"], "until": ["07-dpo"]}, ["04-sft", "07-dpo"]),
        ({"only": ["07-dpo", "03-base"]}, ["03-base", "07-dpo"]),
    ],
    ids=str,
)
def test_flags_select_stages(chosen, names):
    assert [stage.name for stage in select(read_life(["life"], []), Selection(**chosen))] == names


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"until": ["07-dop"]}, "--until 07-dop names no stage"),
        ({"only": ["03-base"], "start": ["04-sft"]}, "no stage in common"),
    ],
)
def test_a_selection_of_nothing_is_refused_with_the_names(chosen, message):
    with pytest.raises(Refusal, match=f"(?s){message}.*03-base, 04-sft, 05-side, 07-dpo"):
        select(read_life(["life"], []), Selection(**chosen))


def test_overrides_name_their_stage():
    names = ["04-sft", "04-sft-lora", "04-sft.v2"]
    given = ["--04-sft-lora.train.seed", "1", "--04-sft.v2.train.seed=2", "--replace", "--04-sft.seed", "-1"]
    assert split_overrides(given, names, shared=False) == {
        "04-sft": ["--replace", "--seed", "-1"],
        "04-sft-lora": ["--train.seed", "1", "--replace"],
        "04-sft.v2": ["--train.seed=2", "--replace"],
    }
    with pytest.raises(Refusal, match=r"(?s)`--train.seed` names no stage.*--04-sft.v2.train.seed"):
        split_overrides(["--train.seed", "1"], names, shared=False)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["a", "train", "data"])
def test_the_overrides_of_a_single_recipe_name_no_stage(name, shared):
    given = ["--train.seed", "1", "--data.seed=2", "--replace"]
    assert split_overrides(given, [name], shared) == {name: given}


def test_a_section_wins_over_a_stage_of_its_name():
    names = ["train", "04-sft"]
    assert split_overrides(["--train.seed", "1"], names, shared=True) == {
        name: ["--train.seed", "1"] for name in names
    }
    with pytest.raises(Refusal, match="`--train.seed` names no stage"):
        split_overrides(["--train.seed", "1"], names, shared=False)
    given = ["--train.train.seed", "1", "--04-sft.train.seed", "2"]
    assert split_overrides(given, names, shared=False) == {
        "train": ["--train.seed", "1"],
        "04-sft": ["--train.seed", "2"],
    }


def test_recipes_with_one_name_are_told_apart_by_their_directory():
    assert stage_names(["a/04-sft.yaml", "b/04-sft.yaml", "b/05.yaml"]) == {
        "a/04-sft": "a/04-sft.yaml",
        "b/04-sft": "b/04-sft.yaml",
        "05": "b/05.yaml",
    }
