"""Support of stages x {full, LoRA, QLoRA} on each layout; unsupported combinations are refused. No torch.

A verdict depends on the contents of a layout, not on its name, so that it also covers a user's own file.
Facts of transformers 5.24, trl 1.12, accelerate 1.15, peft 0.21, deepspeed 0.19; each has its source file
next to it. Settings of one recipe are checked in layout_settings.py. After a change, update the table:

    python -m lifecycle_recipes.doctor.recipe_level.layout_support docs/layouts.md
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...finding import Finding
from ...layouts.layout import Layout, read_layout
from ...recipe.read import RawRecipe
from .layout_settings import find_in_layout_settings, method_of

STAGES = ("pretrain", "sft", "reward", "ppo", "dpo", "kto")
METHODS = ("full", "LoRA", "QLoRA")
# The files of accelerate_configs/, in the order of the documentation.
LAYOUTS = (
    *("cpu", "cpu_ddp", "one_gpu", "one_gpu_fp16", "one_gpu_fp8", "ddp", "ddp_fp16"),
    *("zero1", "zero2", "zero3", "zero3_offload", "fsdp2", "fsdp2_offload", "fsdp2_fp8", "hsdp"),
    *("tp", "cp", "multi_node_fsdp2", "multi_node_zero3"),
)
KNOWN_TYPES = ("NO", "MULTI_CPU", "MULTI_GPU", "DEEPSPEED", "FSDP")

Cell = tuple[str, str]  # stage, method
_EVERY_STAGE = frozenset((stage, method) for stage in STAGES for method in ("full", "LoRA")) - {
    ("pretrain", "LoRA")
}
_PPO = frozenset({("ppo", "full"), ("ppo", "LoRA")})
_QUANTISED = frozenset((stage, "QLoRA") for stage in ("sft", "reward", "dpo", "kto"))
# Trained, saved and reloaded on the CPU by tests/layouts/test_matrix.py, which runs every cell listed here:
# with one process for cpu, four for hsdp, two for the others.
TESTED: dict[str, frozenset[Cell]] = {
    "cpu": _EVERY_STAGE | _QUANTISED,
    "cpu_ddp": _EVERY_STAGE | _QUANTISED,
    "zero1": frozenset({("sft", "full")}),
    "zero2": _EVERY_STAGE | _QUANTISED,
    "zero3": _EVERY_STAGE | _QUANTISED,
    "zero3_offload": frozenset({("sft", "full")}),
    "fsdp2": _EVERY_STAGE - _PPO | _QUANTISED,
    "hsdp": frozenset({("sft", "full"), ("sft", "LoRA"), ("dpo", "full"), ("kto", "LoRA")}),
    "tp": frozenset((stage, "full") for stage in ("sft", "reward", "dpo", "kto")),
}
# Run as two machines with one process each by tests/layouts/test_two_nodes.py.
ON_TWO_NODES: dict[str, frozenset[Cell]] = {
    "multi_node_fsdp2": frozenset({("dpo", "full")}),
    "multi_node_zero3": frozenset({("dpo", "full")}),
}
# accelerate runs none of these on a CPU: tests/fixtures/sharded_on_cpu.py patches it.
SHARDED_ON_CPU = ("fsdp2", "hsdp", "tp", "multi_node_fsdp2")
# (layout, stage, method) -> date on which benchmarks/gpu_layouts.py or gpu_life.py passed on a GPU.
ON_GPU: dict[tuple[str, str, str], str] = {
    ("one_gpu", "pretrain", "full"): "2026-11-27",
    ("one_gpu", "sft", "full"): "2026-11-27",
    ("one_gpu_fp16", "sft", "full"): "2026-11-27",
    ("one_gpu_fp8", "sft", "full"): "2026-11-27",
    ("fsdp2", "sft", "full"): "2026-11-27",
    ("fsdp2_offload", "sft", "full"): "2026-11-27",
    ("fsdp2_fp8", "sft", "full"): "2026-11-27",
    ("zero2", "sft", "full"): "2026-11-27",
    ("zero3", "sft", "full"): "2026-11-26",
}


@dataclass(frozen=True)
class Verdict:
    """message, fix: why a combination is refused, and what to do instead. date: of the run on a GPU."""

    status: Literal["tested", "on-gpu", "expected", "refused"]
    message: str = ""
    fix: str = ""
    date: str = ""


Refused = tuple[str, str] | None  # why, and the fix


def verdict(stage: str, method: str, layout: Layout) -> Verdict:
    """Whether `stage` runs with `method` (one of METHODS) on `layout`."""
    if reason := _without_layout(stage, method) or refusal(stage, method, layout):
        return Verdict("refused", *reason)
    if date := ON_GPU.get((layout.name, stage, method)):
        return Verdict("on-gpu", date=date)
    tested = (TESTED | ON_TWO_NODES).get(layout.name, ())
    return Verdict("tested" if (stage, method) in tested else "expected")


def find_in_layout(raw: RawRecipe, layout: Layout) -> list[Finding]:
    """layout-unsupported, or settings of this recipe that the layout rejects (layout_settings.py)."""
    if raw.stage not in STAGES:
        return []
    method = method_of(raw)
    if reason := refusal(raw.stage, method, layout):
        message, fix = reason
        trained = f"{raw.stage} ({method})" if method != "full" else raw.stage
        message = f"{trained} is not supported on the layout {layout.name or layout.kind}: {message}"
        return [
            Finding.error("layout-unsupported", message, fix, raw.place("model.use_peft", "model", "train"))
        ]
    return find_in_layout_settings(raw, layout)


def refusal(stage: str, method: str, layout: Layout) -> Refused:
    """The first reason to refuse this combination, or None."""
    return next((reason for rule in RULES if (reason := rule(stage, method, layout))), None)


def _without_layout(stage: str, method: str) -> Refused:
    """Combinations that no layout supports (settings.py refuses them with a separate code)."""
    if stage == "pretrain" and method != "full":
        return "pretraining trains every weight, not an adapter", "fine-tune with the sft stage"
    if stage == "ppo" and method == "QLoRA":
        return "PPO cannot train quantised models", "use LoRA"
    return None


def _type(stage: str, method: str, layout: Layout) -> Refused:
    if layout.distributed_type in KNOWN_TYPES:
        return None
    message = f"distributed_type {layout.distributed_type} must be one of {', '.join(KNOWN_TYPES)}"
    return message, "start from a file of accelerate_configs/"


def _fsdp(stage: str, method: str, layout: Layout) -> Refused:
    if layout.kind != "fsdp":
        return None
    if layout.fsdp_version != 2:
        # The default of accelerate's launcher; transformers/training_args.py announces its removal.
        return "it uses FSDP 1, which upstream has deprecated", "write `fsdp_version: 2` in fsdp_config"
    if layout.state_dict not in ("FULL_STATE_DICT", "SHARDED_STATE_DICT"):
        # accelerate/utils/dataclasses.py; for both types, training/save.py writes an unsharded last save.
        message = f"FSDP2 does not support {layout.state_dict}"
        return message, "write `fsdp_state_dict_type: FULL_STATE_DICT` in fsdp_config"
    if stage == "ppo":
        # trl/experimental/ppo supports only DeepSpeed: the rollouts call the policy inside its wrapper, where
        # the embedding applies a sharded weight to plain ids (seen on two processes; huggingface/trl#1726).
        return (
            "PPO generates on the module inside the FSDP wrapper, whose weights are sharded",
            "use zero3 or zero2",
        )
    return None


def _tensor_parallel(stage: str, method: str, layout: Layout) -> Refused:
    if layout.tp == 1:
        return None
    if layout.kind != "ddp":
        # Seen with FSDP: transformers' device mesh contains only the tensor-parallel ranks.
        return (
            "upstream does not support a device mesh for both tensor parallelism and FSDP",
            "use tp or fsdp2",
        )
    if stage == "pretrain":
        # accelerate does not split weights; transformers does so in from_pretrained (models/load.py).
        return (
            "tensor parallelism splits weights while a saved model is loaded, and pretraining may not load one",
            "use fsdp2",
        )
    if method != "full":
        # Seen with peft 0.21 on two processes: lora_A of o_proj, a row-wise layer.
        return (
            "the LoRA adapter of a row-wise layer fails in its first forward pass",
            "use fsdp2, zero2 or zero3",
        )
    if stage == "ppo":
        # Seen: trl/experimental/ppo divides the gathered logits in place, which torch forbids.
        return (
            "its update modifies gathered logits in place, which torch does not allow",
            "use zero3 or zero2",
        )
    return None


def _context_parallel(stage: str, method: str, layout: Layout) -> Refused:
    if layout.sp > 1:
        return "DeepSpeed's sequence parallelism (sp_size) is not supported here", "use cp"
    if layout.cp == 1:
        return None
    if layout.kind != "fsdp":
        return (
            "context parallelism needs FSDP 2 (accelerate/state.py)",
            "start from accelerate_configs/cp.yaml",
        )
    losses = {
        # transformers/trainer.py splits only input_ids, labels, attention_mask and position_ids over the
        # ranks. The losses of these stages shift or index whole rows.
        "reward": "the score is read at the last token of an unsplit sequence",
        "dpo": "its loss needs unsplit sequences",
        "kto": "its loss needs unsplit sequences",
        "ppo": "its rollouts are unsplit sequences",
        # data/packing.py: documents are separated by position_ids, and bits per byte count whole rows.
        "pretrain": "it drops the attention mask that separates packed documents",
    }
    return (losses[stage], "use fsdp2 or zero3; cp supports only sft") if stage in losses else None


def _float8(stage: str, method: str, layout: Layout) -> Refused:
    if layout.precision != "fp8":
        return None
    if method != "full":
        # accelerate/utils/ao.py converts every nn.Linear, the adapters' and bitsandbytes' included.
        return (
            "float8 would also convert the layers of the adapter",
            "use a layout without fp8",
        )
    if stage in ("dpo", "kto", "ppo"):
        # accelerate's prepare() converts the trained model; TRL prepares the reference in other ways.
        return (
            "the reference model would compute in another precision than the policy",
            "use a layout without fp8",
        )
    if layout.kind == "deepspeed":
        return "DeepSpeed casts weights that float8 needs in float32", "use fsdp2_fp8"
    if layout.fp8_backend != "TE" and layout.fp8_all_gather:
        # Seen on an H200, and with FSDP2 on a CPU: save_pretrained ends in "invalid python storage", since torchao
        # wraps the weights (WeightWithDynamicFloat8CastTensor). accelerate's default is true, also without FSDP.
        return (
            "float8 all-gather wraps the weights, and wrapped weights cannot be saved",
            "set fp8_config.enable_fsdp_float8_all_gather: false in the layout",
        )
    return None


RULES: tuple[Callable[[str, str, Layout], Refused], ...] = (
    *(_type, _context_parallel, _tensor_parallel, _fsdp, _float8),
)


def table() -> str:
    """The support table in Markdown: one row per layout, one column per stage, three marks per cell."""
    reasons: list[tuple[str, str]] = []

    def mark(found: Verdict, layout: Layout) -> str:
        if found.status == "tested" and layout.name in SHARDED_ON_CPU:
            return "✓*"
        if found.status != "refused":
            return {"tested": "✓", "on-gpu": "G", "expected": "○"}[found.status]
        if (found.message, found.fix) not in reasons:
            reasons.append((found.message, found.fix))
        return f"[{reasons.index((found.message, found.fix)) + 1}]"

    rows = [f"| layout | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 1) + "|"]
    for layout in map(read_layout, LAYOUTS):
        cells = (" ".join(mark(verdict(stage, m, layout), layout) for m in METHODS) for stage in STAGES)
        rows.append(f"| `{layout.name}` | {' | '.join(cells)} |")
    why = [f"{i}. {message}: {fix}." for i, (message, fix) in enumerate(reasons, 1)]
    dates = [f"{' '.join(cell)}: {date}" for cell, date in ON_GPU.items()]
    return "\n".join([*rows, "", *why, *(["", "On a GPU (G): " + "; ".join(dates) + "."] if dates else [])])


START, END = "<!-- support: start -->\n", "\n<!-- support: end -->"


def write_table(file: str) -> None:
    """Write the table between its two markers in a Markdown file."""
    path = Path(file)
    head, _, rest = path.read_text(encoding="utf-8").partition(START)
    tail = rest.partition(END)[2]
    path.write_text(f"{head}{START}{table()}{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    write_table(sys.argv[1])
