"""Every cell that the support table calls tested here: real processes on the CPU, two real steps each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from layout_files import SIZES
from preference_runs import LORA, pairs, thumbs, user, write_recipe
from repository import ROOT

from lifecycle_recipes.doctor.recipe_level.layout_support import SHARDED_ON_CPU, TESTED

# Name of a layout -> processes, distributed_type and ZeRO stage that its run must have.
LAYOUTS = {
    "cpu": (1, "NO", None),
    "cpu_ddp": (2, "MULTI_CPU", None),
    "zero1": (2, "DEEPSPEED", 1),
    "zero2": (2, "DEEPSPEED", 2),
    "zero3": (2, "DEEPSPEED", 3),
    "zero3_offload": (2, "DEEPSPEED", 3),
    "fsdp2": (2, "FSDP", None),
    "hsdp": (4, "FSDP", None),
    "tp": (2, "MULTI_GPU", None),
}
# In `make test`: one case per layout, each another stage.
FAST = {
    "cpu": ("kto", "LoRA"),
    "cpu_ddp": ("reward", "LoRA"),
    "zero2": ("dpo", "full"),
    "zero3": ("sft", "LoRA"),
    "fsdp2": ("dpo", "full"),
}
MODEL = {
    "full": {},
    "LoRA": LORA,
    # As ZeRO-3 needs it: what is sharded has one dtype.
    "QLoRA": LORA | {"load_in_4bit": True, "dtype": "bfloat16", "bnb_4bit_quant_storage": "bfloat16"},
}
PPO = {"response_length": 12, "num_ppo_epochs": 1, "num_sample_generations": 0}
TEXTS = [f"Service {i} is red. Port: {8000 + i}. It belongs to team {i // 8} alone." for i in range(64)]


@pytest.fixture(scope="session")
def write_case(tiny_model_dir, tiny_chat_rows, tiny_reward_dir):
    """Writes the recipe of one case into a folder; returns its path."""

    def write(folder: Path, stage: str, method: str, layout: str) -> str:
        rows = {
            "pretrain": [{"text": text} for text in TEXTS],
            "sft": tiny_chat_rows,
            "kto": thumbs(),
            "ppo": [{"prompt": user(i)} for i in range(24)],
        }.get(stage, pairs())
        sections = {"train": {"per_device_train_batch_size": 4}, "model": MODEL[method]}
        if stage == "ppo":
            sections["train"] |= PPO
            sections["reward"] = {"model_name_or_path": str(tiny_reward_dir)}
        else:
            # A checkpoint as well: its shards are checked by the run.
            sections["train"] |= {
                "save_strategy": "steps",
                "save_steps": 2,
                "save_only_model": layout == "tp",
            }
        if stage in ("pretrain", "sft"):
            sections["allow"] = {"eval-overlap": "a test"}
        if stage == "pretrain":
            sections["text"] = {"block_size": 32}
        return write_recipe(folder, stage, rows, tiny_model_dir, **sections)

    return write


@pytest.fixture(scope="session")
def run_layout(tmp_path_factory, write_case, tiny_model_dir):
    """Runs cases under a layout, in one launch; returns {case: (record, reloaded)}, what came of each."""

    def run(layout: str, cases: list[tuple[str, str]]) -> dict:
        folder = tmp_path_factory.mktemp(layout)
        recipes = {case: write_case(folder / "-".join(case), *case, layout) for case in cases}
        listed = [[stage, recipe] for (stage, _), recipe in recipes.items()]
        done = launch(layout, write_json(folder / "cases.json", listed))
        records = {case: read_record(folder, case) for case in cases}
        failed = {case: record.get("status") for case, record in records.items() if is_bad(record)}
        assert done.returncode == 0 and not failed, f"{failed}\n{done.stderr[-3000:]}"
        reloaded = reload(folder, records, str(tiny_model_dir))
        return {case: (records[case], reloaded[case]) for case in cases}

    return run


def launch(layout: str, cases: str) -> subprocess.CompletedProcess:
    processes = ["--num_processes", str(LAYOUTS[layout][0])]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    command += ["--config_file", f"accelerate_configs/{layout}.yaml", *processes, *SIZES.get(layout, [])]
    command += ["tests/fixtures/sharded_on_cpu.py"] * (layout in SHARDED_ON_CPU) + [
        "tests/fixtures/run_cases.py",
        cases,
    ]
    # On a machine with GPUs as well: the matrix is one of processes.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return run_quietly(command, environment)


def reload(folder: Path, records: dict, parent: str) -> dict:
    cases = [
        {
            "path": str(folder / "-".join(case) / "run"),
            "parent": parent,
            "scores": case[0] == "reward",
            "quantised": case[1] == "QLoRA",
            "ids": record["probe"]["ids"],
        }
        for case, record in records.items()
    ]
    listed = write_json(folder / "reload.json", cases)
    done = run_quietly([sys.executable, "tests/fixtures/reload_cases.py", listed], dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(records, json.loads(done.stdout), strict=True))


def run_quietly(command: list[str], environment: dict) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def write_json(path: Path, content) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def read_record(folder: Path, case: tuple[str, str]) -> dict:
    path = folder / "-".join(case) / "run/run.json"
    return json.loads(path.read_text()) if path.is_file() else {"status": "never started"}


def is_bad(record: dict) -> bool:
    return record["status"] != "done"


def judge(layout: str, method: str, record: dict, reloaded: dict) -> None:
    """One case has trained, in the layout it asked for, and what it saved is what it trained."""
    exact, loose = (5e-3, 0.05) if method == "QLoRA" else (1e-5, 1e-4)  # 4 bits and bfloat16, or float32
    ran = record["layout"]
    assert (ran["processes"], ran["distributed_type"], ran["zero_stage"]) == LAYOUTS[layout]
    assert ran["sharded"] == (layout in SHARDED_ON_CPU or layout.startswith("zero3"))
    assert record["metrics"]["steps"] == 2
    # Under every sharding: the run compares each trained weight with what it was (training/weights.py).
    assert "some-weights-unmoved" not in {finding["code"] for finding in record["findings"]}
    assert reloaded["unmoved"] == []
    # What is read back is the trained model and not the parent. (PPO's rewards pull both ways: a small step.)
    assert abs(record["probe"]["start"] - record["probe"]["value"]) > 10 * exact
    assert reloaded["value"] == pytest.approx(record["probe"]["value"], abs=exact)
    assert record["saved"]["differs"] < loose


@pytest.mark.parametrize("layout", FAST)
def test_one_case_runs_and_reloads(run_layout, layout):
    ((record, reloaded),) = run_layout(layout, [FAST[layout]]).values()
    judge(layout, FAST[layout][1], record, reloaded)


@pytest.fixture(scope="session")
def matrix(run_layout):
    """All cases of a layout, run when the first of them is asked for."""
    ran: dict[str, dict] = {}

    def of(layout: str) -> dict:
        if layout not in ran:
            ran[layout] = {}  # not again for every case of a layout that fails
            ran[layout] = run_layout(layout, sorted(TESTED[layout]))
        return ran[layout]

    return of


def test_every_layout_of_the_table_is_run():
    assert TESTED.keys() == LAYOUTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "stage", "method"), [(layout, *cell) for layout in LAYOUTS for cell in sorted(TESTED[layout])]
)
def test_every_cell_that_is_called_tested(matrix, layout, stage, method):
    assert (stage, method) in matrix(layout), "the launch of this layout failed: see its first case"
    judge(layout, method, *matrix(layout)[stage, method])
