"""Level 1, the launch: what a layout requests, what accelerate starts, what this machine has. No torch."""

import os
import re
from pathlib import Path

from ...finding import Finding
from ...layouts.effective import CPU_FIX
from ...layouts.layout import ACCELERATORS, Layout
from ...recipe.read import RawRecipe
from .layout_support import find_in_layout

# Keys of TrainingArguments that configure a layout.
TOPOLOGY = ("deepspeed", "fsdp", "fsdp_config", "parallelism_config")
ONE_PROCESS = ("NO", "MULTI_CPU")


def find_in_launch(raw: RawRecipe) -> list[Finding]:
    """Differences between the requested layout and what accelerate would start here; none without a layout.

    layout-in-recipe, layout-processes, layout-type, layout-gpus (a warning if nothing is run), and the
    findings of layout_support.py.
    """
    train = raw.values.get("train") or {}
    if given := [key for key in TOPOLOGY if train.get(key)]:
        message = f"train.{given[0]} configures the topology: it belongs in the layout, not in the recipe"
        fix = "remove it, and choose a layout: --layout zero3, fsdp2, ... (docs/layouts.md)"
        return [
            Finding.error("layout-in-recipe", message, fix, raw.places.get(f"train.{given[0]}", raw.path))
        ]
    if raw.layout is None or not train:
        return []
    # Both checks: a recipe for a cluster may be checked on a laptop, where the first one already fails.
    return [*find_in_machine_for(raw.layout), *find_in_layout(raw, raw.layout)]


def find_in_machine_for(layout: Layout) -> list[Finding]:
    """Differences between a layout and what accelerate would start on this machine, for any recipe."""
    if layout.kind != "single" and layout.distributed_type in ONE_PROCESS:
        asks = f"{layout.processes} processes" if layout.processes > 1 else layout.kind
        why = f"distributed_type is {layout.distributed_type}, or --cpu was given"
        message = f"{layout} requests {asks}, but accelerate would start a single process ({why})"
        fix = (
            "write `distributed_type: MULTI_GPU`, with `use_cpu: true` on a CPU (accelerate_configs/cpu_ddp)"
        )
        return [Finding.error("layout-processes", message, fix)]
    gpus = count_gpus()
    needs_gpu = layout.kind == "fsdp" or layout.tp > 1
    if needs_gpu and layout.cpu:
        message = f"{layout} requests tensor parallelism, which accelerate does not support on a CPU"
        if layout.kind == "fsdp":
            message = (
                f"{layout} requests FSDP, but accelerate replaces it with plain data parallelism on a CPU"
            )
        return [Finding.error("layout-type", message, "on a CPU, use zero3 or cpu_ddp")]
    here = -(-layout.processes // layout.machines)
    if not layout.cpu and gpus is not None and here > gpus:
        message = (
            f"{layout} needs {here} GPU{'s' * (here > 1)}, {gpus or 'none'} "
            f"{'are' if gpus and gpus > 1 else 'is'} visible here"
        )
        fewer = f"pass --processes {gpus * layout.machines} (accelerate's --num_processes)"
        none = "on a CPU, use zero3 or cpu_ddp" if needs_gpu else CPU_FIX
        return [Finding.warning("layout-gpus", message, fewer if gpus else none)]
    return []


def count_gpus() -> int | None:
    """Number of GPUs visible to a process started now; None if the accelerator is not an NVIDIA GPU."""
    if any(os.path.exists(device) for device in ACCELERATORS if "nvidia" not in device):
        return None
    here = len([file for file in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", file.name)])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return here
    return min(here, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
