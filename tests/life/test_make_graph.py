"""The graph of stages, by `make -n`: an edit runs that stage and its descendants, nothing else."""

import os
import re
import time

import pytest
from clone import LIFE, VARIANTS, clone, make


@pytest.fixture
def desk(tmp_path):
    """A clone in which every gate has just held."""
    clone(tmp_path, "Makefile", "pyproject.toml", "constraints.txt", "recipes", "data/desk")
    for stage in VARIANTS:  # of a recipe, make sees its age alone
        (tmp_path / f"recipes/desk/{stage}.yaml").touch()
    now = time.time()
    for path in tmp_path.rglob("*"):
        os.utime(path, (now - 1000, now - 1000))
    gates = [f"runs/desk/{stage}/gate.ok" for stage in LIFE + VARIANTS]
    for age, file in enumerate(["data/desk/world/manifest.json", *gates]):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
        os.utime(tmp_path / file, (now - 900 + age, now - 900 + age))
    return tmp_path


def planned(directory, target="lifecycle") -> list[str]:
    """The stages that make would run, in order."""
    done = make(directory, "-n", target)
    assert done.returncode == 0, done.stderr
    return re.findall(r"lifecycle run recipes/desk/(\S+)\.yaml", done.stdout)


@pytest.mark.parametrize(
    ("touched", "target", "runs"),
    [
        (None, "lifecycle", []),
        ("recipes/desk/07-dpo.yaml", "lifecycle", ["07-dpo"]),
        ("recipes/desk/08-kto.yaml", "lifecycle", ["08-kto"]),
        ("recipes/desk/05-reward.yaml", "lifecycle", LIFE[3:]),
        ("recipes/desk/04-sft.yaml", "lifecycle", LIFE[2:]),
        ("recipes/desk/02-tokenizer.yaml", "lifecycle", LIFE),
        ("data/desk/wiki.py", "lifecycle", LIFE),
        ("recipes/desk/04-sft-lora.yaml", "lifecycle", []),
        (None, "variants", []),
        ("recipes/desk/04-sft-lora.yaml", "variants", ["04-sft-lora", "07-dpo-lora"]),
    ],
    ids=str,
)
def test_an_edit_runs_that_stage_and_its_descendants(desk, touched, target, runs):
    if touched:
        (desk / touched).touch()
    assert planned(desk, target) == runs


@pytest.mark.parametrize("lost", LIFE)
def test_a_gate_that_is_gone_is_judged_again_whatever_its_children_have(desk, lost):
    """`make sft` by hand, broken off, leaves a stage without a gate below children that have theirs."""
    (desk / f"runs/desk/{lost}/gate.ok").unlink()
    assert planned(desk)[0] == lost
