"""Tensor parallelism: the weights are split while they are read, else every rank would train all of them.

This looks at what the stages load; whole stages run in test_matrix.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lifecycle_recipes.models.load import tensor_parallel_size

LOAD = """
import sys, torch, torch.distributed as dist
from types import SimpleNamespace
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from trl import ModelConfig
from lifecycle_recipes.models.load import load_causal_lm

parent, saved = sys.argv[1:]
dist.init_process_group("gloo")
whole = AutoModelForCausalLM.from_pretrained(parent)
split = load_causal_lm(ModelConfig(parent), SimpleNamespace(output_dir=saved))
ids = torch.arange(16)[None]
with torch.no_grad():
    torch.testing.assert_close(split(ids).logits, whole(ids).logits)
layer = split.model.layers[0].self_attn.q_proj.weight
assert isinstance(layer, DTensor) and layer.to_local().numel() * 2 == layer.numel(), layer
split.save_pretrained(saved, is_main_process=dist.get_rank() == 0)
dist.barrier()
again = AutoModelForCausalLM.from_pretrained(saved)
for name, tensor in whole.state_dict().items():
    assert torch.equal(tensor, again.state_dict()[name]), name
dist.destroy_process_group()
print("same")
"""


def test_the_size_is_the_one_that_accelerate_hands_on(monkeypatch):
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "4")
    assert tensor_parallel_size() == 1, "set, but not in use"
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    assert tensor_parallel_size() == 4


@pytest.mark.slow
def test_two_ranks_hold_half_a_matrix_each_and_say_the_same(tmp_path, tiny_model_dir):
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    layout = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, str(script), str(tiny_model_dir), str(tmp_path / "saved")],
        env={**os.environ, **layout, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same") == 2
    assert [file.name for file in Path(tmp_path / "saved").glob("*.safetensors")] == ["model.safetensors"]
