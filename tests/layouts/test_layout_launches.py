"""Real launches: each silent fallback is planted and refused, and what runs is in the record."""

import json
import os
import subprocess
import sys

import pytest
from layout_files import LAUNCH_VARIABLES, write
from repository import ROOT

from lifecycle_recipes.layouts import asked as launchers

RECIPE = """stage: sft
model: {{model_name_or_path: {model}}}
data: {{sources: [{{path: {rows}}}]}}
global_batch_size: 4
train: {{output_dir: {output}, max_steps: 2, report_to: none, save_strategy: 'no', {train}}}
"""


@pytest.fixture
def stage(tmp_path, tiny_model_dir, tiny_chat_rows):
    """Runs a command line in which RECIPE is an sft recipe; returns (status, what it said, its record)."""

    def run(command: str, train: str = "", **environment):
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in tiny_chat_rows))
        recipe = tmp_path / "sft.yaml"
        names = {"model": tiny_model_dir, "rows": rows, "output": tmp_path / "run", "train": train}
        recipe.write_text(RECIPE.format(**names))
        words = command.replace("RECIPE", str(recipe)).split()
        kept = {name: value for name, value in os.environ.items() if name not in LAUNCH_VARIABLES}
        done = subprocess.run(
            [os.path.join(os.path.dirname(sys.executable), words[0]), *words[1:]],
            cwd=ROOT,
            env=kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        record = tmp_path / "run/run.json"
        return done.returncode, done.stderr, json.loads(record.read_text()) if record.exists() else {}

    return run


SFT = "-m lifecycle_recipes.stages.sft RECIPE"


def test_one_process_in_place_of_two_is_refused(stage):
    """`accelerate launch --cpu --num_processes 2` starts one."""
    status, said, record = stage(f"accelerate launch --quiet --cpu --num_processes 2 {SFT}")
    assert status == 1 and said.count("error [layout-processes]") == 1 and "Traceback" not in said
    assert record["status"].startswith("failed: [layout-processes] the launch requests 2 processes")


HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
FALLBACKS = {
    "multi-cpu": ("lifecycle run RECIPE --layout {multi_cpu}", "", {}, "layout-processes"),
    "fsdp-on-cpu": ("lifecycle run RECIPE --layout fsdp2 --processes 2 --cpu", "", {}, "layout-type"),
    "fsdp-on-cpu-by-accelerate": (
        f"accelerate launch --config_file accelerate_configs/fsdp2.yaml --num_processes 2 {SFT}",
        "",
        HIDDEN,
        "layout-type",
    ),
    "zero3-by-torchrun": (
        f"torchrun --nproc_per_node 2 {SFT}",
        "",
        {**HIDDEN, launchers.ASKED: "zero3"},
        "layout-type",
    ),
    "zero3-told-to-use-the-cpu": (
        "lifecycle run RECIPE --layout zero3 --processes 2 --cpu",
        "use_cpu: true",
        {},
        "layout-type",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "train", "variables", "code"), FALLBACKS.values(), ids=FALLBACKS)
def test_a_silent_fallback_is_refused(stage, tmp_path, command, train, variables, code):
    file = write(tmp_path / "two.yaml", distributed_type="MULTI_CPU", use_cpu=True, num_processes=2)
    status, said, record = stage(command.replace("{multi_cpu}", file), train, **variables)
    assert said.count(f"error [{code}]") >= 1
    assert record["status"].startswith(f"failed: [{code}]") and "steps" not in record["metrics"]
    if command.startswith("lifecycle"):
        assert status == 2 and said.count("error [") == 1 and "Traceback" not in said


RUNS = {
    "cpu_ddp": ("MULTI_CPU", None, False, False),
    "zero2": ("DEEPSPEED", 2, False, True),
    "zero3": ("DEEPSPEED", 3, True, True),
}


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "expected"), RUNS.items(), ids=RUNS)
def test_what_runs_is_recorded(stage, layout, expected):
    status, said, record = stage(f"lifecycle run RECIPE --layout {layout} --processes 2 --cpu")
    assert status == 0, said
    found = record["layout"]
    names = ("distributed_type", "zero_stage", "sharded", "optimizer_sharded")
    assert tuple(found[name] for name in names) == expected
    assert (found["asked"], found["processes"], found["data_parallel"]) == (layout, 2, 2)
    assert (found["global_batch"], found["device"], found["precision"]) == (4, "cpu", "no")
    kept = ("weights", "master_weights", "gradients", "optimizer_state")
    assert found["dtypes"] == dict.fromkeys(kept, "float32")
    assert set(record["check_seconds"]) == {"1", "2", "3", "layout"}


@pytest.mark.model
def test_the_old_name_of_the_launcher_still_works():
    done = subprocess.run(
        [sys.executable, "-m", "lifecycle_recipes.launch", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "is now lifecycle_recipes.layouts.launch" in done.stderr
