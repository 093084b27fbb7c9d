"""Every shipped recipe loads, and the desk's recipes, the Makefile and the data they name fit together."""

import re
import subprocess
import sys

import pytest
from repository import ROOT

from lifecycle_recipes.life.graph import ancestors, read_life
from lifecycle_recipes.recipe.batch_size import ROWS, STEPS, batch_settings
from lifecycle_recipes.recipe.read import read_recipe

RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
DESK = sorted((ROOT / "recipes/desk").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recipe_is_valid(path):
    read_recipe(path.relative_to(ROOT), [])


@pytest.mark.model
def test_every_recipe_builds_its_upstream_dataclasses():
    """The schemas say that the keys exist; upstream's own __post_init__ says that the values go together."""
    code = """
import importlib, sys
from lifecycle_recipes.recipe.read import load_recipe, read_recipe
for path in sys.argv[1:]:
    stage = read_recipe(path, []).stage
    module = importlib.import_module(f"lifecycle_recipes.stages.{stage}")
    (cls,) = [c for n, c in vars(module).items() if n.endswith("Recipe") and c.__module__ == module.__name__]
    recipe = load_recipe(cls, [path])
    assert recipe.raw.output_dir, path
"""
    paths = [str(p.relative_to(ROOT)) for p in RECIPES]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_desk_recipes_write_to_a_directory_of_their_name():
    for path in DESK:
        assert str(read_recipe(path, []).output_dir) == f"runs/desk/{path.stem}"


def test_every_run_that_a_recipe_names_comes_before_it(monkeypatch):
    """A stage that starts from a run, or is compared with one, needs that run and its gate."""
    monkeypatch.chdir(ROOT)
    stages = read_life(["recipes/desk"], [])
    for stage in stages:
        named = set(re.findall(r"runs/desk/([\w-]+)", stage.raw.text)) - {stage.name}
        named |= set(re.findall(r"\b(\d\d-[\w-]+)/", "\n".join(stage.raw.gate)))
        assert named <= ancestors(stages, [stage.name]), stage.path


def test_desk_recipes_do_not_name_the_hardware():
    """Precision and device follow the machine; a recipe that names them runs on one kind only."""
    for path in DESK:
        train = read_recipe(path, []).values.get("train", {})
        assert not {"bf16", "fp16", "use_cpu"} & set(train), path.name


def test_every_desk_stage_makes_a_promise():
    for path in DESK:
        assert read_recipe(path, []).gate, path.name


TRAINED = [p for p in RECIPES if "train" in read_recipe(p, []).values]


@pytest.mark.parametrize("path", TRAINED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_batch_warmup_decay_clipping_and_checkpointing_are_written_out_with_a_reason(path):
    """Upstream's defaults differ from trainer to trainer; what is left off says why."""
    raw = read_recipe(path, [])
    lines = {line.strip().partition(":")[0]: line for line in path.read_text().splitlines() if ": " in line}
    train = raw.values["train"]
    assert raw.values["global_batch_size"] > 0
    assert not {"gradient_accumulation_steps"} & set(train), "it follows from the global batch"
    wanted = {"lr_scheduler_type", "warmup_steps", "activation_checkpointing"}
    wanted |= set() if raw.stage == "ppo" else {"max_grad_norm"}  # which cannot clip
    assert wanted <= set(train)
    reasons = {key: lines[key].partition("  # ")[2] for key in wanted}
    assert not {key: text for key, text in reasons.items() if len(text.split()) < 3}, "each with its reason"
    assert train["warmup_steps"] > 0 or raw.stage == "ppo"
    assert raw.stage == "ppo" or train["max_grad_norm"] == 1.0
    assert train["activation_checkpointing"] == (path.parent.name != "desk" and raw.stage != "ppo")
    if train["lr_scheduler_type"] == "constant_with_warmup":
        assert "no decay" in lines["lr_scheduler_type"]


def test_the_desk_takes_its_batch_at_once_in_one_process():
    """Its figures were measured so; two processes share it."""
    for path in DESK:
        raw = read_recipe(path, [])
        if "train" in raw.values:
            rows = raw.values["train"]["per_device_train_batch_size"]
            assert batch_settings(raw, 1) == {ROWS: rows, STEPS: 1}
            assert batch_settings(raw, 2) == {ROWS: rows // 2, STEPS: 1}
