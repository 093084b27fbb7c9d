"""Stopping on one layout and going on with another: to the same weights, or not at all."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from layout_files import SIZES
from repository import ROOT
from safetensors.torch import load_file

from lifecycle_recipes.doctor.recipe_level.layout_support import SHARDED_ON_CPU
from lifecycle_recipes.layouts.effective import find_in_resume
from lifecycle_recipes.layouts.layout import Layout

# A stage that asks itself to stop after its second step, as a signal would.
STAGE = """
import sys
from lifecycle_recipes.stages import sft
from lifecycle_recipes.training import train

stop = train.StopOnSignal.on_step_end

def on_step_end(self, args, state, control, **kwargs):
    if state.global_step == 2:
        self.asked_at = 0.0
    stop(self, args, state, control, **kwargs)

if "--stop" in sys.argv:
    sys.argv.remove("--stop")
    train.StopOnSignal.on_step_end = on_step_end
sft.main(sys.argv[1:])
"""
RECIPE = """stage: sft
model: {{model_name_or_path: {model}}}
data: {{sources: [{{path: {rows}}}]}}
{batch}
train: {{output_dir: {output}, max_steps: 4, learning_rate: 1e-2, report_to: none, {saves}}}
"""


@pytest.fixture
def life(tmp_path, tiny_model_dir, tiny_chat_rows):
    """Runs the stage on a layout, to its end or with --stop; returns (status, what it said, its record)."""
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_chat_rows))

    def run(
        layout: str,
        processes: int,
        *flags,
        name: str = "run",
        batch: str = "global_batch_size: 4",
        saves: str = "save_strategy: 'no'",
    ):
        recipe = tmp_path / f"{name}.yaml"
        names = {"model": tiny_model_dir, "rows": tmp_path / "rows.jsonl", "output": tmp_path / name}
        recipe.write_text(RECIPE.format(**names, batch=batch, saves=saves))
        command = [sys.executable, "-m", "lifecycle_recipes.layouts.launch", "--quiet", "--config_file"]
        file = Path(layout) if "/" in layout else ROOT / f"accelerate_configs/{layout}.yaml"
        command += [str(file), "--num_processes", str(processes), *SIZES.get(layout, [])]
        command += [str(ROOT / "tests/fixtures/sharded_on_cpu.py")] * (file.stem in SHARDED_ON_CPU)
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, str(tmp_path / "stage.py"), str(recipe), *flags],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        return done.returncode, done.stderr, json.loads((tmp_path / name / "run.json").read_text())

    return run


@pytest.mark.slow
def test_data_parallel_goes_on_with_one_process_to_the_same_weights(life, tmp_path):
    status, said, record = life("cpu_ddp", 2, "--stop")
    assert (status, record["status"]) == (4, "stopped"), said
    status, said, record = life("cpu", 1)
    assert (status, record["status"]) == (0, "done"), said
    assert record["resumed_from"].endswith("checkpoint-2") and record["layout"]["processes"] == 1
    assert life("cpu", 1, name="whole")[0] == 0
    ours, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    # Sums over two ranks add in another order: float32 rounding, which Adam's early steps enlarge.
    assert all(torch.allclose(ours[name], whole[name], atol=1e-4) for name in whole)


def sharded_checkpoints(folder: Path) -> str:
    """A user's own fsdp2: each process writes its shards of a checkpoint."""
    config = yaml.safe_load((ROOT / "accelerate_configs/fsdp2.yaml").read_text())
    config["fsdp_config"]["fsdp_state_dict_type"] = "SHARDED_STATE_DICT"
    path = folder / "mine/fsdp2.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["full", "sharded"])
def test_fsdp_goes_on_to_the_same_weights(life, tmp_path, state):
    layout = sharded_checkpoints(tmp_path) if state == "sharded" else "fsdp2"
    status, said, _ = life(layout, 2, "--stop")
    assert status == 4, said
    written = {path.name for path in (tmp_path / "run/checkpoint-2").iterdir()}
    assert ("pytorch_model_fsdp_0" in written) == (state == "sharded")
    status, said, record = life(layout, 2)
    assert (status, record["status"]) == (0, "done"), said
    assert record["resumed_from"].endswith("checkpoint-2") and record["layout"]["sharded"]
    assert life("cpu", 1, name="whole")[0] == 0
    ours, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert ours.keys() == whole.keys()
    assert all(torch.allclose(ours[name], whole[name], atol=1e-4) for name in whole)


@pytest.mark.slow
def test_a_stop_writes_what_it_takes_to_go_on(life):
    """Also where the recipe keeps the weights of its checkpoints alone."""
    assert life("cpu", 1, "--stop", saves="save_only_model: true")[0] == 4
    status, said, record = life("cpu", 1, saves="save_only_model: true")
    assert (status, record["resumed_from"][-12:]) == (0, "checkpoint-2"), said


@pytest.mark.slow
def test_a_stop_says_where_nothing_can_go_on(life):
    status, said, record = life("tp", 2, "--stop")
    assert status == 4 and "step 2 of 4; " in said and "tensor parallelism" in said, said
    status, said, record = life("tp", 2)
    assert (status, record["resumed_from"]) == (0, None), said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [(("zero2", 2), ("zero2", 1)), (("zero3", 2), ("cpu_ddp", 2)), (("fsdp2", 2), ("cpu_ddp", 2))],
    ids=["fewer-processes", "another-layout", "fsdp-and-another"],
)
def test_a_sharded_checkpoint_is_refused_by_another_layout(life, tmp_path, before, after):
    status, said, _ = life(*before, "--stop")
    assert status == 4, said
    for _ in range(2):  # the record still knows what wrote the checkpoint
        status, said, record = life(*after)
        assert status == 2 and said.count("error [resume-layout-differs]") == 1, said
        assert record["layout"]["asked"] == before[0]
    status, said, record = life(*before)
    assert (status, record["status"]) == (0, "done"), said


@pytest.mark.slow
def test_another_batch_is_refused(life):
    assert life("cpu_ddp", 2, "--stop", batch="")[0] == 4
    status, said, _ = life("cpu", 1, batch="")
    assert status == 2 and said.count("error [resume-layout-differs]") == 1, said
    assert "16 rows per step" in said and "uses 8" in said and "global_batch_size" in said


TWO = Layout("ddp", 2)
ASKED = Layout("deepspeed", 2, zero_stage=3, distributed_type="DEEPSPEED", name="zero3")


@pytest.mark.parametrize(
    ("earlier", "runs", "batch", "refused"),
    [
        (TWO, Layout("single", 1), 8, False),
        (Layout("single", 1), TWO, 8, False),
        (TWO, Layout("single", 1), 4, True),
        (ASKED, ASKED, 8, False),
        (ASKED, replace(ASKED, processes=1), 8, True),
        (ASKED, TWO, 8, True),
        (TWO, ASKED, 8, True),
        (ASKED, replace(ASKED, zero_stage=2), 8, True),
    ],
)
def test_a_checkpoint_goes_on_only_to_the_same_end(earlier, runs, batch, refused):
    keys = ("kind", "processes", "zero_stage", "fsdp_version")
    record = {key: getattr(earlier, key) for key in keys} | {"global_batch": 8}
    found = find_in_resume(record, runs, batch)
    assert [f.code for f in found] == (["resume-layout-differs"] if refused else [])
    assert not refused or str(earlier.processes) in found[0].fix
    assert find_in_resume(None, runs, batch) == []
