"""Saving from shards, with two real processes under ZeRO-3."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from preference_runs import write_recipe
from repository import ROOT
from transformers import AutoModelForCausalLM

# `--lose`: after DeepSpeed has written a checkpoint, rank 1's optimizer state is cut short.
SCRIPT = """
import os, sys
from pathlib import Path

import lifecycle_recipes.stages.sft as sft

def lose(engine, directory, *args, **kwargs):
    save(engine, directory, *args, **kwargs)
    if os.environ["RANK"] == "1":
        for file in Path(directory).glob("global_step*/*zero_pp_rank_1_*optim_states.pt"):
            file.write_bytes(file.read_bytes()[:1000])

if "--lose" in sys.argv:
    sys.argv.remove("--lose")
    from deepspeed.runtime.engine import DeepSpeedEngine
    save, DeepSpeedEngine.save_checkpoint = DeepSpeedEngine.save_checkpoint, lose
sft.main()
"""


@pytest.fixture
def run(tmp_path, tiny_model_dir, tiny_chat_rows):
    """Runs sft under a ZeRO-3 whose file asks for no consolidated save; returns (exit status, record)."""
    shards = json.loads((ROOT / "deepspeed_configs/zero3.json").read_text())
    shards["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = False
    (tmp_path / "zero3.json").write_text(json.dumps(shards))
    layout = yaml.safe_load((ROOT / "accelerate_configs/zero3.yaml").read_text()) | {"num_processes": 2}
    layout["deepspeed_config"]["deepspeed_config_file"] = str(tmp_path / "zero3.json")
    (tmp_path / "layout.yaml").write_text(yaml.safe_dump(layout))
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(*flags, **train):
        sections = {"train": train, "allow": {"eval-overlap": "a test"}}
        recipe = write_recipe(tmp_path, "sft", tiny_chat_rows, tiny_model_dir, **sections)
        command = [sys.executable, "-m", "lifecycle_recipes.layouts.launch", "--config_file", "layout.yaml"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [*command, "script.py", recipe, *flags],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done, json.loads((tmp_path / "run/run.json").read_text())

    return run


@pytest.mark.slow
def test_zero3_ends_consolidated_whatever_its_file_says(run, tmp_path):
    done, record = run(save_strategy="steps", save_steps=1)
    assert not list(Path(tmp_path, "run/checkpoint-1").glob("*.safetensors"))
    assert (done.returncode, record["status"]) == (0, "done"), done.stderr[-3000:]
    assert sorted(file.name for file in Path(tmp_path, "run").glob("*.safetensors")) == ["model.safetensors"]
    assert record["saved"]["differs"] < 1e-4
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not any(info.values())


@pytest.mark.slow
def test_a_lost_shard_of_another_rank_ends_the_run(run):
    done, record = run("--lose", save_strategy="steps", save_steps=1)
    assert done.returncode == 1 and record["status"].startswith("failed: [saved-incomplete]")
    assert "zero_pp_rank_1" in done.stderr or "another process" in record["status"]
