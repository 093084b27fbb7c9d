"""The global batch: shared out over any number of processes, refused by name where it cannot be."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lifecycle_recipes.doctor.check import check
from lifecycle_recipes.doctor.trainer_level.step_count import planned_steps
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.inspection.summary import step_lines
from lifecycle_recipes.layouts.layout import Layout
from lifecycle_recipes.recipe.batch_size import ROWS, STEPS, batch_settings, find_in_effective, processes_here
from lifecycle_recipes.recipe.read import load_recipe, read_recipe
from lifecycle_recipes.stages.sft import SFTRecipe

RECIPE = """\
stage: {stage}
model: {{model_name_or_path: parent}}
{more}
data: {{sources: [{{path: rows.jsonl}}]}}
global_batch_size: {total}
train:
  output_dir: run
"""


@pytest.fixture(autouse=True)
def in_a_directory_without_a_launch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "LIFECYCLE_LAYOUT", *(n for n in os.environ if n.startswith("PARALLELISM_"))):
        monkeypatch.delenv(name, raising=False)


def raw_of(total: object = 64, stage: str = "sft", **train):
    """A RawRecipe whose train section has these keys more."""
    text = RECIPE.format(stage=stage, total=total, more="reward: {model_name_or_path: a}" * (stage == "ppo"))
    text += "".join(f"  {key}: {value}\n" for key, value in train.items())
    with open("recipe.yaml", "w") as file:
        file.write(text)
    return read_recipe("recipe.yaml")


def refused(raw, processes: int) -> tuple[str, str, str]:
    """(code, says, fix) of the only finding."""
    with pytest.raises(Refusal) as refusal:
        batch_settings(raw, processes)
    (finding,) = refusal.value.findings
    assert finding.severity == "error" and finding.where.startswith("recipe.yaml:")
    return finding.code, finding.message, finding.fix


@pytest.mark.parametrize(
    ("train", "processes", "rows", "steps"),
    [
        ({}, 1, 8, 8),  # upstream's default of 8 rows, and what is left
        ({}, 2, 8, 4),
        ({}, 64, 1, 1),
        ({ROWS: 4}, 1, 4, 16),
        ({ROWS: 4}, 8, 4, 2),
        ({ROWS: 16}, 8, 8, 1),  # at most 16, but its share is 8
        ({STEPS: 2}, 4, 8, 2),
        ({STEPS: 1}, 1, 64, 1),  # no limit where the recipe says how often
        ({ROWS: 4, STEPS: 8}, 2, 4, 8),
    ],
)
def test_what_the_recipe_leaves_out_follows(train, processes, rows, steps):
    assert batch_settings(raw_of(64, **train), processes) == {ROWS: rows, STEPS: steps}
    assert rows * steps * processes == 64


def test_an_odd_share_is_taken_in_parts_that_divide_it():
    assert batch_settings(raw_of(36), 2) == {ROWS: 6, STEPS: 3}
    assert batch_settings(raw_of(11), 1) == {ROWS: 1, STEPS: 11}


def test_without_it_everything_is_as_before():
    raw = raw_of("null", **{ROWS: 3, STEPS: 5})
    assert batch_settings(raw, 4) == {}


@pytest.mark.parametrize(
    ("total", "train", "processes", "message", "fix"),
    [
        (10, {}, 4, "10 cannot be divided evenly over 4 processes", "write 8 or 12, or use 2 processes"),
        (3, {}, 8, "3 cannot be divided evenly over 8 processes", "write 8, or use 3 processes"),
        (20, {ROWS: 8}, 1, f"over 1 process x train.{ROWS} 8", f"write 16 or 24, or train.{ROWS}: 5"),
        (20, {STEPS: 3}, 2, f"over 2 processes x train.{STEPS} 3", "write 18 or 24"),
        (16, {ROWS: 16}, 3, f"over 3 processes x train.{ROWS} 16", "write 15 or 18, or use 2 processes"),
    ],
)
def test_what_does_not_divide_is_refused_with_the_nearest_that_do(total, train, processes, message, fix):
    code, said, told = refused(raw_of(total, **train), processes)
    assert code == "batch-does-not-divide" and message in said and told == fix
    for word in fix.split(",")[0].removeprefix("write ").split(" or "):
        assert batch_settings(raw_of(word, **train), processes)


def test_two_forms_that_say_different_things_are_refused():
    code, message, fix = refused(raw_of(64, **{ROWS: 4, STEPS: 2}), 2)
    assert (
        code == "batch-inconsistent"
        and "4 x" in message
        and "is 16 rows, not global_batch_size 64" in message
    )
    assert fix == f"remove train.{STEPS}: it is computed from the other values"


@pytest.mark.parametrize(
    "train",
    [
        {"auto_find_batch_size": "true"},
        {"accelerator_config": "{split_batches: true}"},
        {"accelerator_config": "{gradient_accumulation_kwargs: {num_steps: 2}}"},
    ],
)
def test_what_changes_the_batch_behind_its_keys_is_refused(train):
    assert refused(raw_of(64, **train), 1)[0] == "batch-inconsistent"


def test_kto_takes_two_rows_at_a_time_for_its_kl():
    assert batch_settings(raw_of(8, "kto"), 4) == {ROWS: 2, STEPS: 1}
    code, message, fix = refused(raw_of(8, "kto"), 8)
    assert (
        code == "batch-does-not-divide"
        and "at least 2 rows per micro-batch" in message
        and fix.startswith("write 16")
    )
    assert batch_settings(raw_of(8, "kto", loss_type="apo_zero_unpaired"), 8) == {ROWS: 1, STEPS: 1}


def test_ppo_cuts_the_share_of_a_process_into_mini_batches():
    assert batch_settings(raw_of(64, "ppo", num_mini_batches=4, **{ROWS: 32}), 2) == {ROWS: 32, STEPS: 1}
    code, message, _ = refused(raw_of(64, "ppo", num_mini_batches=4, **{ROWS: 8}), 2)
    assert code == "mini-batches-merged" and "1 optimizer steps per epoch for 4 mini-batches" in message
    code, message, fix = refused(raw_of(12, "ppo", num_mini_batches=4, **{ROWS: 6}), 2)
    assert (
        code == "batch-does-not-divide" and "cannot be split into 4 mini-batches" in message and "48" in fix
    )


def test_processes_of_one_group_share_their_rows(monkeypatch):
    assert processes_here() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert processes_here() == 8
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "2")
    monkeypatch.setenv("PARALLELISM_CONFIG_CP_SIZE", "2")
    assert processes_here() == 2 == Layout(processes=8, tp=2, cp=2).data_parallel


def test_the_training_arguments_are_built_with_it(monkeypatch):
    """On each rank of a launch: nothing else has to know how many there are."""
    raw_of(64)
    arguments = ["recipe.yaml", "--activation_checkpointing", "false"]
    assert load_recipe(SFTRecipe, arguments).train.gradient_accumulation_steps == 8
    monkeypatch.setattr("lifecycle_recipes.recipe.read.processes_here", lambda: 4)
    recipe = load_recipe(SFTRecipe, [*arguments, "--global_batch_size", "96"])
    assert recipe.global_batch_size == 96
    assert (recipe.train.per_device_train_batch_size, recipe.train.gradient_accumulation_steps) == (8, 3)
    # The record stays that of the recipe, not of the layout: another layout may resume it.
    assert recipe.raw.values["train"] == {"output_dir": "run", "activation_checkpointing": False}


def test_what_is_built_must_be_what_is_declared():
    raw = raw_of(64)
    built = SimpleNamespace(train_batch_size=8, gradient_accumulation_steps=8)
    assert find_in_effective(raw, built, 1) == []
    built.train_batch_size = 16  # one process on two GPUs: DataParallel
    (finding,) = find_in_effective(raw, built, 1)
    assert (
        finding.code == "batch-differs"
        and "128 rows: 16 per process x 8 accumulation steps x 1" in finding.message
    )


def test_planned_steps_and_the_summary_go_by_the_declared_batch():
    args = SimpleNamespace(
        train_batch_size=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        dataloader_drop_last=True,
        max_steps=-1,
        num_train_epochs=1,
    )
    trainer = SimpleNamespace(
        args=args, train_dataset=range(30), accelerator=SimpleNamespace(num_processes=1)
    )
    assert planned_steps(trainer, declared=8) == (3, 8)  # 6 rows are left out
    args.dataloader_drop_last = False
    assert planned_steps(trainer, declared=8) == (4, 8)
    run = {"steps": 4, "epochs": 1.0, "global_batch": 8, "declared": True, "processes": 1}
    trainer.accelerator = None
    lines = step_lines(trainer, SimpleNamespace(tokens=300, rows=30), run)
    assert re.findall(r"\d+", lines[1]) == ["8", "2", "4", "1"] and "as declared" in lines[1]


def codes(processes: int, **more) -> list[str]:
    report = check("recipe.yaml", upto=1, read_layout=lambda raw: Layout("ddp", processes), **more)
    return [f.code for f in report.findings if f.code.startswith(("batch", "mini"))]


def test_the_check_knows_the_layout_that_it_is_asked_about():
    raw_of(10)
    assert codes(1) == codes(2) == codes(5) == []
    assert codes(4) == ["batch-does-not-divide"]


def test_a_batch_that_grows_with_the_processes_is_warned_of():
    raw_of("null")
    assert codes(1) == [] and codes(2) == ["batch-undeclared"]


@pytest.mark.parametrize(
    ("stage", "train"),
    [
        ("sft", {"average_tokens_across_devices": "false"}),
        ("reward", {"accelerator_config": "{use_seedable_sampler: false}"}),
        ("sft", {"accelerator_config": "{dispatch_batches: true}"}),
        ("sft", {"accelerator_config": "{even_batches: false}"}),
        ("reward", {"train_sampling_strategy": "batch_rebalance"}),
        ("dpo", {"loss_type": "aot"}),
        ("ppo", {}),
    ],
)
def test_what_the_layout_would_change_is_named(stage, train):
    raw_of(8, stage, **train)
    assert codes(1) == [] and codes(2) == ["batch-depends-on-layout"]
    raw_of(8, stage)
    assert codes(2) == [] or stage == "ppo"


def test_level_1_imports_no_torch():
    raw_of(10)
    code = "import sys; from lifecycle_recipes.cli import main\ntry: main(sys.argv[1:])\n"
    code += "except SystemExit: assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "check", "recipe.yaml", "--upto", "1", "--processes", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "batch-does-not-divide" in done.stderr
