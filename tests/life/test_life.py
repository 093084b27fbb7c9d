"""A small life, for real: what `make lifecycle` runs, in which order, and what it never runs twice."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from clone import LIFE, clone, make, make_command, make_environment

SMALL = {"per_device_train_batch_size": 8, "logging_steps": 10, "save_steps": 10, "max_steps": 2}
# Long enough to be interrupted between two checkpoints.
LONG = {"03-pretrain": 200, "04-sft": 100}


def shrink(recipe: dict, stage: str) -> dict:
    """The desk's own recipe, with the same parents and measures, in seconds instead of minutes."""
    if recipe["stage"] == "evaluate":
        recipe["evaluate"] |= {"limit": 4, "max_new_tokens": 16}
        return recipe | {"gate": []}
    if recipe["stage"] == "export":
        loose = {"gguf-f16": 0.5}
        recipe["export"] |= {"limit": 4, "max_new_tokens": 16, "forms": ["gguf-f16"], "agreement": loose}
        recipe["export"]["recovery"] = 0.0
        recipe["evaluate"] |= {"limit": 4}
        recipe["gate"] = ["merged.same_text == 1"]
        return recipe
    for source in recipe["data"]["sources"]:
        source["max_rows"] = 400
    if recipe["stage"] == "curate":
        recipe["gate"] = ["rows_out >= 100"]
        return recipe
    for source in recipe["data"].get("eval_sources", []):
        source["max_rows"] = 16
    recipe["gate"] = ["steps >= 2"]
    if stage == "02-tokenizer":
        recipe["tokenizer"]["vocab_size"] = 400
        recipe["gate"] = ["round_trip == 1"]
        return recipe
    recipe["train"] |= SMALL | {"max_steps": LONG.get(stage, 2), "warmup_steps": 1}
    if stage == "03-pretrain":
        recipe["architecture"]["config"] |= {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
        }
        recipe["train"]["lr_scheduler_kwargs"] = {"num_decay_steps": 10}
    if stage == "06-ppo":
        recipe["train"] |= {"response_length": 16, "local_rollout_forward_batch_size": 8}
    if recipe.get("evaluate"):
        recipe["evaluate"] |= {"limit": 4, "max_new_tokens": 16}
    return recipe


def edit(directory: Path, stage: str, change) -> None:
    file = directory / f"recipes/desk/{stage}.yaml"
    recipe = yaml.safe_load(file.read_text())
    change(recipe)
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))


def run_json(directory: Path, stage: str) -> dict:
    return json.loads((directory / f"runs/desk/{stage}/run.json").read_text())


def records(directory: Path) -> dict[str, bytes]:
    """The record of every finished stage, as bytes: a stage that ran again has another."""
    files = {stage: directory / f"runs/desk/{stage}/run.json" for stage in LIFE}
    return {stage: file.read_bytes() for stage, file in files.items() if file.exists()}


def interrupt(directory: Path, stage: str, number: signal.Signals) -> str:
    """Signal all of `make lifecycle` once `stage` has its first checkpoint; return what went to stderr."""
    process = subprocess.Popen(
        make_command("lifecycle"),
        cwd=directory,
        env=make_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test session in the background may ignore SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 900
        while not list((directory / f"runs/desk/{stage}").glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < deadline, f"no checkpoint of {stage}"
            time.sleep(0.01)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    return errors


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The Makefile, the world and the shrunken recipes in a directory of their own; nothing has run."""
    here = tmp_path_factory.mktemp("life")
    parts = "Makefile pyproject.toml constraints.txt data chat_templates accelerate_configs recipes/desk"
    clone(here, *parts.split())
    for stage in LIFE:
        edit(here, stage, lambda recipe, stage=stage: shrink(recipe, stage))
    return here


@pytest.fixture(scope="module")
def interrupted(small):
    """The small life, interrupted in pretraining and again in SFT, then left to end. -> what was seen."""
    seen = {}
    for stage, number in (("03-pretrain", signal.SIGINT), ("04-sft", signal.SIGTERM)):
        said = interrupt(small, stage, number)
        checkpoints = [int(d.name[11:]) for d in (small / f"runs/desk/{stage}").glob("checkpoint-*")]
        seen[stage] = {
            "said": said,
            "record": run_json(small, stage),
            "before": records(small),
            "last": max(checkpoints),
        }
    seen["end"] = make(small, "lifecycle")
    return seen


@pytest.fixture
def life(interrupted, small, tmp_path):
    """A copy of the finished small life, to be edited."""
    assert interrupted["end"].returncode == 0, interrupted["end"].stderr[-3000:]
    return shutil.copytree(small, tmp_path / "life")


@pytest.mark.slow
def test_an_interrupted_life_goes_on_where_it_stopped(interrupted, small):
    end = interrupted["end"]
    assert end.returncode == 0, end.stderr[-3000:]
    for stage, steps in LONG.items():
        seen, record = interrupted[stage], run_json(small, stage)
        assert seen["record"]["status"] == "stopped" and "Traceback" not in seen["said"], seen["said"]
        assert 10 <= seen["last"] < steps
        assert record["status"] == "done" and record["metrics"]["steps"] == steps
        assert record["resumed_from"] == f"runs/desk/{stage}/checkpoint-{seen['last']}"
        finished = LIFE[: LIFE.index(stage)]
        assert {s: seen["before"][s] for s in finished} == {s: records(small)[s] for s in finished}
    # Ctrl-C leaves a checkpoint of the very step at which it stopped. (A SIGTERM to the group comes twice,
    # since make hands its own on to the stage.)
    pretrain = interrupted["03-pretrain"]
    assert f"interrupted at step {pretrain['last']} of {LONG['03-pretrain']}" in pretrain["said"]
    for stage in LIFE:
        assert (small / f"runs/desk/{stage}/gate.ok").is_file()
        assert f"| {stage} " in end.stdout
    assert not list((small / "runs/desk").glob("*.replaced-*"))


@pytest.mark.slow
def test_made_again_nothing_runs_also_after_a_comment(life):
    before = records(life)
    assert "lifecycle_recipes.stages" not in make(life, "lifecycle").stdout and records(life) == before
    with (life / "recipes/desk/03-pretrain.yaml").open("a") as recipe:
        recipe.write("# a comment is no other recipe\n")
    done = make(life, "lifecycle")
    assert done.returncode == 0 and done.stdout.count("already finished") == len(LIFE)
    assert records(life) == before


@pytest.mark.slow
def test_another_learning_rate_runs_that_stage_and_its_descendants_only(life):
    before = records(life)
    edit(life, "05-reward", lambda recipe: recipe["train"].update(learning_rate=2e-4))
    done = make(life, "lifecycle")
    assert done.returncode == 0, done.stderr[-3000:]
    after = records(life)
    # DPO is only measured with the reward model: its weights are the same, and so is their export.
    assert [stage for stage in LIFE if after[stage] != before[stage]] == LIFE[4:-1]
    assert run_json(life, "05-reward")["recipe"]["text"].count("0.0002")
    # What had been trained is moved aside, not overwritten, and its card is gone from the report.
    assert (life / "runs/desk/05-reward.replaced-1/run.json").read_bytes() == before["05-reward"]
    assert "replaced" not in done.stdout


@pytest.mark.slow
def test_a_gate_that_fails_stops_the_life_there_and_names_the_promise(life):
    before = records(life)
    edit(life, "05-reward", lambda recipe: recipe.update(gate=["steps >= 2", "pair_accuracy >= 1.01"]))
    done = make(life, "lifecycle")
    assert done.returncode != 0
    assert "FAIL  pair_accuracy >= 1.01" in done.stdout and "gate FAILED" in done.stdout
    assert not (life / "runs/desk/05-reward/gate.ok").exists()
    assert "lifecycle_recipes.stages" not in done.stdout and records(life) == before
    assert "remaining: 05-reward, 06-ppo, 07-dpo, 08-kto" in done.stderr
    # A child that is started by hand is refused for the same reason.
    by_hand = make(life, "dpo", "ARGS=--train.output_dir runs/desk/07-again")
    assert by_hand.returncode != 0 and "pair_accuracy >= 1.01" in by_hand.stderr
    # Mended, the life goes on; nothing has to be trained again.
    edit(life, "05-reward", lambda recipe: recipe.update(gate=["steps >= 2"]))
    assert make(life, "lifecycle").returncode == 0 and records(life) == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["03-pretrain", "04-sft", "06-ppo"])
def test_the_same_seed_gives_the_same_metrics_to_the_last_digit(life, stage):
    """Pretraining and SFT were even interrupted the first time."""
    name = stage.split("-")[1]
    done = make(life, name, f"ARGS=--train.output_dir runs/again/{stage}")
    assert done.returncode == 0, done.stderr[-3000:]
    first = run_json(life, stage)["metrics"]
    again = json.loads((life / f"runs/again/{stage}/run.json").read_text())["metrics"]
    if stage in LONG:
        # Upstream averages the training loss over the steps since the resume (Trainer._finalize_training).
        first.pop("train_loss"), again.pop("train_loss")
    assert again == first and len(first) >= 5
