"""Two nodes on one machine: two launches with machine ranks 0 and 1, one process each, over loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from preference_runs import pairs, write_recipe

# Says which rank writes the record and which saves weights.
SCRIPT = """
import os, sys
import lifecycle_recipes.record as record
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


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def by_accelerate(rank: int, port: str) -> list[str]:
    """As `lifecycle run` launches: our launcher, which keeps the stage's exit status."""
    command = ["lifecycle_recipes.launch", "--quiet", "--config_file", "accelerate_configs/cpu_ddp.yaml"]
    command += ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)]
    return [*command, "--main_process_ip", "127.0.0.1", "--main_process_port", port]


def by_torchrun(rank: int, port: str) -> list[str]:
    command = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(rank)]
    return [*command, "--master_addr", "127.0.0.1", "--master_port", port]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [by_accelerate, by_torchrun])
def test_two_nodes_train_together_and_one_of_them_writes(tmp_path, tiny_model_dir, launcher):
    (tmp_path / "node.py").write_text(SCRIPT)
    recipe = write_recipe(tmp_path, "dpo", pairs(), tiny_model_dir)
    port, script = free_port(), [str(tmp_path / "node.py"), recipe, str(tmp_path / "writers")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", *launcher(rank, port), *script],
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
    assert record["layout"]["processes"] == 2 and record["layout"]["distributed_type"] == "MULTI_CPU"
    writers = Path(tmp_path, "writers").read_text().splitlines()
    assert set(writers) == {"record by rank 0", "weights by rank 0"}
    assert writers.count("weights by rank 0") == 1
