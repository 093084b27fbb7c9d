"""The Makefile: what `make lifecycle`, `make variants` and `make sft` ask of `lifecycle run`."""

import shutil
from pathlib import Path

import pytest
from clone import clone, make
from small_life import Started, write_life

WORLD = "data/desk/generate.py"


@pytest.fixture
def here(tmp_path, monkeypatch):
    clone(tmp_path, "Makefile", "pyproject.toml", "constraints.txt", "recipes/desk", "data/desk")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "ends"),
    [
        ("lifecycle", ["06-ppo", "08-kto", "11-export"]),
        ("variants", ["04-sft-lora", "04-sft-qlora", "07-dpo-lora"]),
    ],
)
def test_a_life_is_one_command_on_the_desk(here, target, ends):
    plan = make(here, "-n", target).stdout
    until = " ".join(f"--until {end}" for end in ends)
    assert f"lifecycle run recipes/desk {until} --replace\n" in plan
    assert plan.index(WORLD) < plan.index("lifecycle run")


def test_the_world_is_made_for_recipes_that_read_it(here):
    write_life()
    shutil.copytree("recipes/desk", "recipes/mine")
    plans = {
        recipes: make(here, "-n", "sft", f"RECIPES={recipes}").stdout for recipes in ("recipes/mine", "life")
    }
    assert [WORLD in plan for plan in plans.values()] == [True, False]


def test_a_stage_that_is_done_is_a_success(here):
    write_life()
    Started().run(["", "", "", "run", "life/03-base.yaml"])
    before = Path("runs/03-base/run.json").read_bytes()
    Path("life/03-base.yaml").rename("life/03-pretrain.yaml")  # a stage of the Makefile
    done = make(here, "pretrain", "RECIPES=life")
    assert done.returncode == 0, done.stderr
    assert "runs/03-base: already finished" in done.stdout and "gate passed" in done.stdout
    assert Path("runs/03-base/run.json").read_bytes() == before
