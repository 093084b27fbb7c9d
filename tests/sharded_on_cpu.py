"""Runs a script with FSDP and tensor parallelism on the CPU, from which accelerate keeps them:

    accelerate launch --config_file accelerate_configs/fsdp2.yaml --num_processes 2 \
        tests/sharded_on_cpu.py SCRIPT ARGUMENTS

torch shards over gloo as it does over NCCL; only accelerate's state calls such processes MULTI_CPU and then
leaves FSDP out (accelerate/state.py). Here it calls them MULTI_GPU, and our own refusal of such a layout is
set aside. All else is what a GPU would run: accelerate's, transformers', TRL's and our own code, torch's
collectives. What a CPU does not show is CUDA: its kernels, streams and memory, and so neither context
parallelism (torch has its attention on CUDA alone) nor FSDP's offload (it pins memory).
"""

import os
import runpy
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from lifecycle_recipes.doctor.recipe_level import layout_launch as launch_level


def shard_on_cpu() -> None:
    PartialState._prepare_backend = _gloo
    PartialState.set_device = _cpu
    launch_level.find_in_machine_for = lambda layout: []


def _gloo(state, *asked) -> tuple[str, DistributedType]:
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return "gloo", DistributedType.MULTI_GPU


def _cpu(state) -> None:
    state.device = torch.device("cpu")


if __name__ == "__main__":
    shard_on_cpu()
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
