"""Layouts: what files, flags and launchers ask for, and what is refused because it is not what runs."""

import json
import os
from dataclasses import replace

import pytest
import torch
from layout_files import LAUNCH_VARIABLES, write
from repository import ROOT
from small_trainer import make_trainer, plain_recipe

from lifecycle_recipes.doctor.recipe_level import layout_launch as launch_level
from lifecycle_recipes.finding import REFUSED, Refusal
from lifecycle_recipes.layouts import asked as launchers
from lifecycle_recipes.layouts.effective import compare, effective_layout
from lifecycle_recipes.layouts.layout import Layout, asked_layout, mend_deepspeed_path, read_layout
from lifecycle_recipes.recipe.read import hardware_defaults
from lifecycle_recipes.record.run import Run
from lifecycle_recipes.training.layout_watch import LayoutWatch, find_in_optimizer, find_in_prepared


@pytest.fixture(autouse=True)
def nobody_launched(monkeypatch):
    for name in LAUNCH_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


# What a file and flags ask for


@pytest.mark.parametrize(
    ("name", "kind", "stage", "fsdp", "processes"),
    [
        ("cpu", "single", None, None, 1),
        ("cpu_ddp", "ddp", None, None, 2),
        ("ddp", "ddp", None, None, 8),
        ("zero1", "deepspeed", 1, None, 8),
        ("zero3", "deepspeed", 3, None, 8),
        ("fsdp2", "fsdp", None, 2, 8),
    ],
)
def test_a_shipped_layout_asks_for_what_it_is_called(name, kind, stage, fsdp, processes):
    layout = read_layout(name)
    assert (layout.kind, layout.zero_stage, layout.fsdp_version) == (kind, stage, fsdp)
    assert (layout.processes, layout.name, layout.precision) == (processes, name, None)


def test_flags_win_over_the_file():
    layout = read_layout("ddp", {"num_processes": 4, "mixed_precision": "fp16", "num_machines": 2})
    assert (layout.processes, layout.machines, layout.precision) == (4, 2, "fp16")
    layout = read_layout("ddp", {"use_deepspeed": True, "zero_stage": 0})
    assert (layout.kind, layout.zero_stage) == ("deepspeed", 0)
    # accelerate starts one process for --cpu, whatever the file says; what was asked for stays.
    layout = read_layout("zero3", {"cpu": True, "num_processes": 2})
    assert (layout.kind, layout.distributed_type, layout.cpu) == ("deepspeed", "NO", True)


def test_ranks_of_one_tensor_or_context_group_see_the_same_rows():
    assert read_layout("tp").data_parallel == 1
    assert read_layout("cp").data_parallel == 2
    assert read_layout("hsdp").data_parallel == 8


def test_the_deepspeed_file_decides_stage_offload_and_precision(tmp_path):
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    write(tmp_path / "ds.json", zero_optimization=zero, bf16={"enabled": True}, fp16={"enabled": "auto"})
    inside = {"deepspeed_config_file": "ds.json"}
    layout = read_layout(
        write(tmp_path / "my.yaml", distributed_type="DEEPSPEED", num_processes=2, deepspeed_config=inside)
    )
    assert (layout.zero_stage, layout.offload, layout.precision) == (2, True, "bf16")


DEEPSPEED = {"distributed_type": "DEEPSPEED", "num_processes": 2}


@pytest.mark.parametrize(
    ("name", "keys", "code"),
    [
        ("zero3.yaml", {**DEEPSPEED, "deepspeed_config": {"zero_stage": 2}}, "layout-zero-stage"),
        (
            "mine.yaml",
            {
                **DEEPSPEED,
                "deepspeed_config": {
                    "deepspeed_config_file": "deepspeed_configs/zero2.json",
                    "zero_stage": 3,
                },
            },
            "layout-zero-stage",
        ),
        ("fsdp2.yaml", {"distributed_type": "FSDP", "num_processes": 2}, "layout-fsdp"),
        ("a.yaml", {**DEEPSPEED, "deepspeed_config": {"deepspeed_config_file": "no.json"}}, "missing-file"),
        ("b.yaml", {"num_processes": "all"}, "bad-layout"),
        ("c.yaml", {"mixed_precision": "half"}, "bad-layout"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, name, keys, code):
    with pytest.raises(Refusal) as refusal:
        read_layout(write(tmp_path / name, **keys))
    assert codes(refusal.value.findings) == [code]


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00"])
def test_a_file_that_is_no_layout_is_refused(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(Refusal, match="bad-layout"):
        read_layout(str(tmp_path / "x.yaml"))


def test_deepspeed_files_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_layout("zero3").zero_stage == 3
    asked = {"config": str(ROOT / "accelerate_configs/zero3.yaml"), "flags": {}}
    monkeypatch.setenv(launchers.ASKED, json.dumps(asked))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "deepspeed_configs/zero3.json")
    mend_deepspeed_path()
    assert os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] == str(ROOT / "deepspeed_configs/zero3.json")


# Who asked


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (["python", "/venv/bin/accelerate", "launch", "--cpu", "x.py"], ["--cpu", "x.py"]),
        (["/venv/bin/accelerate-launch", "x.py"], ["x.py"]),
        (["python", "-m", "accelerate.commands.launch", "--quiet"], ["--quiet"]),
        (["python", "-m", "accelerate.commands.accelerate_cli", "launch", "x"], ["x"]),
        (["/bin/python3", "-u", "-X", "utf8", "/a/accelerate/commands/launch.py", "x", ""], ["x", ""]),
        (["python", "/venv/bin/accelerate", "config"], None),
        (["/bin/my-accelerate-launch", "x.py"], None),
        ([], None),
        (["bash", "-c", "accelerate launch --cpu x.py"], None),
        (["python", "x.py", "--note", "accelerate", "launch"], None),
    ],
)
def test_accelerate_is_known_by_its_command_line(command, arguments):
    assert launchers.after_accelerate(command) == arguments


def test_nobody_asked_under_plain_python(monkeypatch):
    monkeypatch.setattr(launchers, "_ancestors", lambda: [["bash"], ["make", "test"]])
    assert asked_layout() is None


def test_accelerates_own_flags_and_file_are_read(monkeypatch):
    config = str(ROOT / "accelerate_configs/zero2.yaml")
    line = ["python", "accelerate", "launch", "--config_file", config, "--num-processes", "2", "-m", "x", "y"]
    monkeypatch.setattr(launchers, "_ancestors", lambda: [["python", "-m", "x"], line])
    layout = asked_layout()
    assert (layout.kind, layout.zero_stage, layout.processes, layout.cpu) == ("deepspeed", 2, 2, False)


def test_torchrun_asks_for_its_processes_and_the_environments_layout(monkeypatch):
    monkeypatch.setattr(launchers, "_ancestors", lambda: [["python", "/bin/torchrun"]])
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert (asked_layout().kind, asked_layout().processes, asked_layout().machines) == ("ddp", 4, 2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert (asked_layout().kind, asked_layout().fsdp_version) == ("fsdp", 2)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv(launchers.ASKED, "zero3")
    assert (asked_layout().kind, asked_layout().processes) == ("deepspeed", 4)


# The machine


@pytest.mark.parametrize(
    ("layout", "gpus", "code", "fix"),
    [
        (read_layout("ddp"), 2, "layout-gpus", "--processes 2"),
        (read_layout("ddp"), 0, "layout-gpus", "--cpu"),
        (read_layout("zero3", {"num_processes": 16, "num_machines": 2}), 8, None, ""),
        (read_layout("ddp"), None, None, ""),
        (read_layout("zero3", {"use_cpu": True}), 0, None, ""),
        (read_layout("fsdp2", {"use_cpu": True}), 8, "layout-type", "zero3"),
        (read_layout("tp", {"use_cpu": True}), 4, "layout-type", "zero3"),
        (read_layout("fsdp2"), 0, "layout-gpus", "zero3"),
        (read_layout("cpu", {"num_processes": 2}), 0, "layout-processes", "MULTI_GPU"),
        (read_layout("zero3", {"cpu": True}), 0, "layout-processes", "MULTI_GPU"),
    ],
)
def test_what_the_machine_or_accelerate_would_make_of_a_layout(monkeypatch, layout, gpus, code, fix):
    monkeypatch.setattr(launch_level, "count_gpus", lambda: gpus)
    found = launch_level.find_in_machine_for(layout)
    assert codes(found) == ([code] if code else [])
    assert not found or fix in found[0].fix


def test_hidden_gpus_ask_for_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert read_layout("ddp").cpu and launch_level.count_gpus() == 0


def test_a_deepspeed_layout_without_gpus_keeps_deepspeed(monkeypatch):
    """With use_cpu accelerate would leave it out, and without a backend it does not start."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert hardware_defaults({}, read_layout("cpu_ddp"))["use_cpu"] is True
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    found = hardware_defaults({}, read_layout("zero3", {"use_cpu": True}))
    assert (found["use_cpu"], found["ddp_backend"], found["bf16"]) == (False, "gloo", False)


# What runs


ASKED = Layout("deepspeed", 2, zero_stage=3, distributed_type="DEEPSPEED", name="zero3")
PLAIN = Layout("ddp", 2, distributed_type="MULTI_GPU")


@pytest.mark.parametrize(
    ("asked", "runs", "code"),
    [
        (ASKED, replace(ASKED, zero_stage=2), "layout-zero-stage"),
        (ASKED, replace(ASKED, kind="ddp", zero_stage=None), "layout-type"),
        (ASKED, replace(ASKED, processes=1), "layout-processes"),
        (ASKED, replace(ASKED, cpu=True), "layout-device"),
        (replace(ASKED, precision="fp8"), replace(ASKED, precision="fp16"), "layout-precision"),
        (Layout("fsdp", 2, fsdp_version=2), Layout("fsdp", 2, fsdp_version=1), "layout-fsdp"),
        (PLAIN, replace(PLAIN, machines=2), "layout-processes"),
        (PLAIN, replace(PLAIN, precision="bf16"), None),
    ],
)
def test_each_difference_has_its_code(asked, runs, code):
    found = compare(asked, runs)
    assert codes(found) == ([code] if code else []) and all(finding.fix for finding in found)


@pytest.fixture
def trainer(tmp_path, tiny_model_dir):
    """A real trainer whose model is prepared as its first step would find it."""
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1)
    trainer.create_optimizer_and_scheduler(1)
    trainer.model_wrapped = trainer.model
    return trainer


def test_one_plain_process_is_what_it_says(trainer):
    facts, found = find_in_prepared(trainer, effective_layout(trainer.args), "sdpa")
    assert found == []
    assert facts == {
        "sharded": False,
        "optimizer_sharded": False,
        "dtypes": {"weights": "float32"},
        "attention": "sdpa",
    }


@pytest.mark.parametrize(
    "layout",
    [ASKED, replace(ASKED, zero_stage=1), Layout("fsdp", 2, fsdp_version=2), PLAIN],
    ids=["zero3", "zero1", "fsdp2", "ddp"],
)
def test_whole_weights_on_every_rank_are_no_sharding(trainer, layout):
    assert codes(find_in_prepared(trainer, layout, None)[1]) == ["layout-not-sharded"]


def test_sizes_precision_and_attention_of_the_prepared_model(trainer, monkeypatch):
    wanted = effective_layout(trainer.args)
    assert codes(find_in_prepared(trainer, replace(wanted, cp=2), None)[1]) == ["layout-parallel"]
    assert codes(find_in_prepared(trainer, wanted, "flash_attention_2")[1]) == ["layout-attention"]
    # accelerate takes fp16 on a CPU and computes in float32.
    monkeypatch.setattr(trainer.accelerator.state, "_mixed_precision", "fp16")
    assert codes(find_in_prepared(trainer, wanted, None)[1]) == ["layout-precision"]


def test_low_precision_weights_are_refused_before_the_first_step(trainer, tmp_path):
    trainer.model.to(torch.bfloat16)  # behind the recipe's back
    before = trainer.model.lm_head.weight.clone()
    recipe = plain_recipe(tmp_path / "run")
    with Run(recipe.raw) as run, pytest.raises(Refusal) as refusal:
        trainer.add_callback(LayoutWatch(trainer, recipe, run))
        trainer.train()
    assert codes(refusal.value.findings) == ["layout-precision"] and refusal.value.status == REFUSED
    assert torch.equal(trainer.model.lm_head.weight, before)
    layout = json.loads((tmp_path / "run/run.json").read_text())["layout"]
    assert layout["dtypes"]["master_weights"] == layout["dtypes"]["gradients"] == "bfloat16"
    assert find_in_optimizer(trainer, effective_layout(trainer.args), float32=False)[1] == []
