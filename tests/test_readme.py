"""The README's two commands are what the tests and CI run, and a fresh clone has what they need."""

import json
import re
from pathlib import Path

import pytest
from clone import clone, make
from repository import ROOT

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """What git would give a newcomer, in a directory of its own."""
    return clone(tmp_path_factory.mktemp("clone"))


def commands(text: str) -> list[str]:
    """The lines of a shell script that do something, without comments."""
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


def test_the_first_block_is_the_two_commands():
    first = re.search(r"^```sh\n(.*?)^```$", README, re.M | re.S)[1]
    assert commands(first) == ["make lifecycle", "make test"]


def test_ci_runs_the_readmes_tests_and_the_long_ones():
    ci = commands((ROOT / ".ci/run").read_text())
    assert "make test" in ci and "make test-slow" in ci
    assert "set -euo pipefail" in ci, "a failure must end the script"
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_make_test_and_test_slow_leave_nothing_out(fresh):
    """Between them, the two run every test once."""
    marks = [re.findall(r'-m ("not slow"|slow)', make(fresh, "-n", t).stdout) for t in ("test", "test-slow")]
    assert marks == [['"not slow"'], ["slow"]]


def test_a_clone_holds_no_output_and_no_environment(fresh):
    found = {path.relative_to(fresh).parts[0] for path in fresh.rglob("*")}
    assert not found & {".venv", "runs", "wandb"}
    assert {"Makefile", "README.md", "LICENSE", "constraints.txt", ".ci", "recipes", "src", "tests"} <= found


def test_make_installs_what_is_not_there(fresh):
    """Without an environment, both commands start by making one, with the versions tested together."""
    for target in ("lifecycle", "test"):
        plan = make(fresh, "-n", target, "VENV=.venv", "INSTALLED=.venv/installed", "PYTHON=python3").stdout
        first, *_ = (line for line in plan.splitlines() if "venv" in line)
        assert first == "python3 -m venv .venv"
        assert plan.index("-c constraints.txt -e '.[dev,curation,pii,publish,serve]'") < plan.index(
            "data/desk/generate.py"
        )


def test_make_help_and_plain_make_name_the_targets(fresh):
    said = make(fresh, "help")
    assert said.returncode == 0 and "make lifecycle" in said.stdout and "sft-lora" in said.stdout
    assert make(fresh).stdout == said.stdout


def test_make_data_writes_the_world_once(fresh):
    assert make(fresh, "data").returncode == 0
    manifest = fresh / "data/desk/world/manifest.json"
    json.loads(manifest.read_text())
    written = manifest.stat().st_mtime_ns
    assert make(fresh, "data").returncode == 0 and manifest.stat().st_mtime_ns == written


def test_a_stage_without_a_recipe_is_refused_in_one_line(fresh):
    done = make(fresh, "sft", "RECIPES=nowhere")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "no recipe nowhere/[0-9]*-sft.yaml"
    assert "Traceback" not in done.stderr and not (fresh / "runs").exists()


def test_a_refusal_goes_through_make(fresh):
    done = make(fresh, "sft", "ARGS=--train.learning_rat 1e-3")
    assert done.returncode != 0 and "gate" not in done.stdout
    assert "learning_rat" in done.stderr and "learning_rate" in done.stderr and "Traceback" not in done.stderr
