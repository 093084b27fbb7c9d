"""Compare the requested layout with the one in effect, before any weight is loaded.

Upstream falls back without an error: to fewer processes, no sharding, another precision (each was seen with
accelerate 1.15, and the tests reproduce them).
"""

import os
from dataclasses import replace
from typing import Any

from ..finding import Finding
from .asked import ASKED
from .layout import PARALLEL, Layout

NAMES = {"single": "one process", "ddp": "data parallel", "deepspeed": "DeepSpeed", "fsdp": "FSDP"}


CPU_FIX = (
    "to test it on the CPU, add --cpu to `lifecycle run`, or set CUDA_VISIBLE_DEVICES= for accelerate launch"
)


def rows_per_step(args: Any, processes: int) -> int:
    """Rows per optimizer step, from a built trainer's arguments. processes: those with different rows."""
    return args.train_batch_size * args.gradient_accumulation_steps * processes


def layout_record(args: Any, asked: Layout | None, runs: Layout) -> dict:
    """`layout` of the record: the name of the requested layout, and the one in effect."""
    asked = asked or runs
    return {
        "asked": asked.name or None,
        "kind": runs.kind,
        "processes": runs.processes,
        "machines": runs.machines,
        "data_parallel": replace(runs, tp=asked.tp, cp=asked.cp, sp=asked.sp).data_parallel,
        "parallel": {name: getattr(asked, name) for name in PARALLEL if getattr(asked, name) > 1},
        "distributed_type": runs.distributed_type,
        "zero_stage": runs.zero_stage,
        "fsdp_version": runs.fsdp_version,
        "device": args.device.type,
        "precision": runs.precision,
        "global_batch": rows_per_step(args, asked.data_parallel),
    }


def effective_layout(args: Any) -> Layout:
    """The layout in effect, from the built `TrainingArguments`, with a process group but without a model."""
    from accelerate import PartialState

    state = PartialState()
    plugin = getattr(args, "deepspeed_plugin", None)
    kind, version = _kind(args, state), None
    precision = args.mixed_precision
    if kind == "deepspeed":
        precision = _deepspeed_precision(plugin.deepspeed_config, precision)
    if kind == "fsdp":
        version = int((args.fsdp_plugin_args or {}).get("fsdp_version", os.environ.get("FSDP_VERSION", 1)))
    return Layout(
        kind=kind,
        processes=state.num_processes,
        machines=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        zero_stage=plugin.zero_stage if kind == "deepspeed" else None,
        fsdp_version=version,
        precision=precision,
        cpu=args.device.type == "cpu",
        distributed_type="FSDP" if kind == "fsdp" else state.distributed_type.value,
    )


def _kind(args: Any, state: Any) -> str:
    name = state.distributed_type.value
    if name == "DEEPSPEED":
        return "deepspeed"
    if name == "NO":
        return "single"
    # accelerate decides this only when its Accelerator is built, and never for a CPU (state.py).
    wants = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" or bool(args.fsdp_plugin_args)
    return "fsdp" if name == "FSDP" or (wants and name != "MULTI_CPU") else "ddp"


def _deepspeed_precision(config: dict, otherwise: str) -> str:
    for name in ("fp16", "bf16"):
        if (config.get(name) or {}).get("enabled") is True:
            return name if otherwise != "fp8" else "fp8"
    return "no" if otherwise != "fp8" else "fp8"


def compare(asked: Layout, runs: Layout) -> list[Finding]:
    """An error for each difference between the requested and the effective layout."""
    found = []

    def differs(code: str, wanted: str, got: str, fix: str) -> None:
        found.append(Finding.error(code, f"{asked} requests {wanted}, but {got} is in effect", fix))

    if (asked.processes, asked.machines) != (runs.processes, runs.machines):
        fix = "start it with `lifecycle run RECIPE --layout NAME --processes N`"
        differs("layout-processes", _count(asked), _count(runs), fix)
    if asked.kind != runs.kind and not found:
        fix = "start it with `lifecycle run RECIPE --layout NAME`"
        if os.environ.get(ASKED, "{")[:1] != "{":
            fix = "torchrun does not read the layout: use `accelerate launch --config_file`"
        elif asked.kind == "deepspeed" and runs.cpu:
            fix = "remove train.use_cpu: accelerate disables DeepSpeed with it"
        differs("layout-type", NAMES[asked.kind], NAMES[runs.kind], fix)
    elif asked.zero_stage != runs.zero_stage:
        fix = "correct zero_optimization.stage, or rename the layout"
        differs("layout-zero-stage", f"ZeRO-{asked.zero_stage}", f"ZeRO-{runs.zero_stage}", fix)
    elif asked.fsdp_version != runs.fsdp_version:
        fix = "write `fsdp_version` in fsdp_config"
        differs("layout-fsdp", f"FSDP{asked.fsdp_version}", f"FSDP{runs.fsdp_version}", fix)
    if asked.cpu != runs.cpu:
        fix = CPU_FIX if runs.cpu else "remove use_cpu from the recipe or the layout"
        differs("layout-device", _device(asked), _device(runs), fix)
    if asked.precision not in (None, runs.precision):
        fix = "set the precision in one place: train.bf16, train.fp16 or the layout's mixed_precision"
        differs("layout-precision", f"precision {asked.precision}", f"{runs.precision}", fix)
    return found


def find_data_parallel(args: Any) -> list[Finding]:
    """layout-type: transformers uses torch's DataParallel if one process has several GPUs."""
    if args.n_gpu <= 1:
        return []
    message = f"one process sees {args.n_gpu} GPUs: DataParallel would multiply the batch by {args.n_gpu}"
    fix = f"use --layout ddp --processes {args.n_gpu}, or set CUDA_VISIBLE_DEVICES=0 for one GPU"
    return [Finding.error("layout-type", message, fix)]


def find_in_resume(earlier: dict | None, runs: Layout, global_batch: int) -> list[Finding]:
    """resume-layout-differs: a checkpoint that this layout cannot resume, or not with the same result.

    earlier: `layout` in the record of the run that wrote the checkpoint. One process and any number of data
    parallel processes write the same files. Of ZeRO and FSDP, each rank reads the files that it wrote.
    """
    if not earlier or "processes" not in earlier:
        return []
    was = replace(
        runs,
        kind=earlier.get("kind", runs.kind),
        processes=earlier["processes"],
        zero_stage=earlier.get("zero_stage"),
        fsdp_version=earlier.get("fsdp_version"),
    )
    plain = {was.kind, runs.kind} <= {"single", "ddp"}
    same = (was.kind, was.processes, was.zero_stage, was.fsdp_version) == (
        *(runs.kind, runs.processes, runs.zero_stage, runs.fsdp_version),
    )
    if not plain and not same:
        message = (
            f"the checkpoint was written by {_shown(was)}; {_shown(runs)} cannot read its optimizer state"
        )
    elif earlier.get("global_batch") not in (None, global_batch):
        message = (
            f"the checkpoint used {earlier['global_batch']} rows per step, this launch uses {global_batch}"
        )
    else:
        return []
    fix = f"resume with {_shown(was)}, or start again with --replace"
    if plain:
        fix = f"resume with {_count(was)}, or start again with --replace and declare global_batch_size"
    return [Finding.error("resume-layout-differs", message, fix)]


def _shown(layout: Layout) -> str:
    names = {"deepspeed": f"ZeRO-{layout.zero_stage}", "fsdp": f"FSDP{layout.fsdp_version}"}
    return f"{names.get(layout.kind, NAMES[layout.kind])} on {_count(layout)}"


def _count(layout: Layout) -> str:
    count = f"{layout.processes} process{'es' * (layout.processes > 1)}"
    return count + (f" on {layout.machines} machines" if layout.machines > 1 else "")


def _device(layout: Layout) -> str:
    return "the CPU" if layout.cpu else "a GPU"
