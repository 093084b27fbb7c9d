"""Two nodes on one machine: two launches with machine ranks 0 and 1, one process each, over loopback.

The two sharded layouts are the shipped ones; FSDP is made to run on the CPU (sharded_on_cpu.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from free_port import free_port
from preference_runs import pairs, write_recipe
from repository import ROOT

from lifecycle_recipes.doctor.recipe_level.layout_support import ON_TWO_NODES, SHARDED_ON_CPU

# Says which rank writes the record and which saves weights.
SCRIPT = """
import os, sys
import lifecycle_recipes.record.run as record
import lifecycle_recipes.stages.dpo as dpo
from transformers import PreTrainedModel

def tell(function, what):
    def told(*args, **kwargs):
        with open(sys.argv[2], "a") as file:
            file.write(f"{what} by rank {os.environ['RANK']}\\n")
        return function(*args, **kwargs)
    return told

record.write_json = tell(record.write_json, "record")
PreTrainedModel.save_pretrained = tell(PreTrainedModel.save_pretrained, "weights")
dpo.main(sys.argv[1:2])
"""


def by_accelerate(layout: str, rank: int, port: str) -> list[str]:
    """As `lifecycle run` launches: our launcher, which keeps the stage's exit status."""
    command = [
        "lifecycle_recipes.layouts.launch",
        "--quiet",
        "--config_file",
        f"accelerate_configs/{layout}.yaml",
    ]
    command += ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
    return command + ["tests/fixtures/sharded_on_cpu.py"] * (layout in SHARDED_ON_CPU)


def by_torchrun(layout: str, rank: int, port: str) -> list[str]:
    command = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(rank)]
    return [*command, "--master_addr", "127.0.0.1", "--master_port", port]


NODES = [
    (by_accelerate, "cpu_ddp", "MULTI_CPU"),
    (by_torchrun, "cpu_ddp", "MULTI_CPU"),
    (by_accelerate, "multi_node_zero3", "DEEPSPEED"),
    (by_accelerate, "multi_node_fsdp2", "FSDP"),
]


def test_what_the_table_says_of_two_nodes_is_run_here():
    ran = {layout for _, layout, kind in NODES if kind != "MULTI_CPU"}
    assert dict.fromkeys(ran, frozenset({("dpo", "full")})) == ON_TWO_NODES


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "layout", "kind"), NODES)
def test_two_nodes_train_together_and_one_of_them_writes(tmp_path, tiny_model_dir, launcher, layout, kind):
    (tmp_path / "node.py").write_text(SCRIPT)
    recipe = write_recipe(tmp_path, "dpo", pairs(), tiny_model_dir)
    port, script = free_port(), [str(tmp_path / "node.py"), recipe, str(tmp_path / "writers")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", *launcher(layout, rank, port), *script],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = []
    try:
        errors = [node.communicate(timeout=300)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], errors
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "done" and record["metrics"]["steps"] == 2
    found = record["layout"]
    assert (found["processes"], found["machines"], found["distributed_type"]) == (2, 2, kind)
    assert found["sharded"] == layout.startswith("multi_node")
    writers = Path(tmp_path, "writers").read_text().splitlines()
    assert set(writers) == {"record by rank 0", "weights by rank 0"}
    assert writers.count("weights by rank 0") == 1
