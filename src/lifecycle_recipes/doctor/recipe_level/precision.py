"""Level 1, precision: set in one place, supported by the hardware, and usable for training. No torch.

Facts of transformers 5.24 and accelerate 1.15: train.bf16 and fp16 silently override the layout's
mixed_precision (training_args.py); fp16 on a CPU computes in float32 and fp8 on an older GPU in fp16
(accelerator.py, state.py); fp16 weights fail with "Attempting to unscale FP16 gradients" after the first
backward; in bf16 weights, most updates with a small learning rate are lost by rounding.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

from ...finding import Finding
from ...layouts.layout import Layout, has_accelerator
from ...models.config_file import local_config, stored_dtype
from ...recipe.read import RawRecipe

FP8_MODULES = {"AO": ("torchao",), "TE": ("transformer_engine",), None: ("torchao", "transformer_engine")}
INSTALL = {
    "torchao": "pip install -c constraints.txt -e '.[fp8]'",
    "transformer_engine": "pip install 'transformer_engine[pytorch]'",
}
HOPPER = (9, 0)
# The sections whose weights a stage trains; the value model of PPO starts from the reward model.
TRAINED = ("model", "value")


def find_in_precision(raw: RawRecipe) -> list[Finding]:
    """precision-conflict, precision-on-cpu, fp16-weights; warnings bf16-weights and fp8-unsupported."""
    if "train" not in raw.values:
        return []
    layout = raw.layout
    precision = _precision(raw, layout)
    findings = _conflict(raw, layout)
    without_gpu = layout.cpu if layout else not has_accelerator() and sys.platform != "darwin"
    if without_gpu and not findings:
        findings += _on_cpu(raw, layout, precision)
    if precision == "fp8":
        findings += _fp8(layout)
    for section in TRAINED if raw.stage == "ppo" else TRAINED[:1]:
        findings += _weights(raw, section, precision, layout)
    return findings


def _precision(raw: RawRecipe, layout: Layout | None) -> str | None:
    """fp16, bf16, fp8, no; None if neither the recipe nor the layout sets it."""
    train = raw.values["train"]
    given = next((name for name in ("bf16", "fp16") if train.get(name)), None)
    given = given or (layout.precision if layout else None)
    return "no" if given is None and train.get("bf16") is False else given


def _conflict(raw: RawRecipe, layout: Layout | None) -> list[Finding]:
    """The recipe and the layout both set the precision, and differ."""
    if layout is None or layout.precision is None:
        return []
    train = raw.values["train"]
    for key in ("bf16", "fp16"):
        value, wanted = train.get(key), layout.precision == key
        if value is None or value is wanted or (value is False and not wanted):
            continue
        message = f"train.{key}: {str(value).lower()}, but {layout} sets {layout.precision}"
        fix = f"remove train.{key}, or use a layout without mixed_precision"
        return [Finding.error("precision-conflict", message, fix, raw.place(f"train.{key}"))]
    return []


def _on_cpu(raw: RawRecipe, layout: Layout | None, precision: str | None) -> list[Finding]:
    if precision == "fp16":
        message = (
            "fp16 is not supported on a CPU: loss scaling needs a GPU, and the run would compute in float32"
        )
    elif precision == "bf16" and layout and layout.kind == "deepspeed":
        # On a CPU, training_args.py allows bf16 only with use_cpu, which makes accelerate skip DeepSpeed.
        message = "transformers rejects bf16 with DeepSpeed on a CPU"
    else:
        return []
    in_recipe = raw.values["train"].get(precision)
    remove = f"remove train.{precision}" if in_recipe else "use a layout without mixed_precision"
    fix = f"{remove} to test on a CPU, or run on GPUs"
    # Without a layout, a recipe is checked here that may run elsewhere.
    severity = Finding.error if layout else Finding.warning
    return [severity("precision-on-cpu", message, fix, raw.place(f"train.{precision}"))]


def _fp8(layout: Layout) -> list[Finding]:
    message = None
    modules = FP8_MODULES[layout.fp8_backend if layout.fp8_backend in FP8_MODULES else None]
    capability = None if layout.cpu else gpu_capability()
    if not any(importlib.util.find_spec(module) for module in modules):
        message, fix = f"needs {' or '.join(modules)}, which is not installed", INSTALL[modules[0]]
    elif capability is None:
        message, fix = "needs a GPU, and this machine or layout has none", "use bf16"
    elif capability < HOPPER:
        has = ".".join(map(str, capability))
        message, fix = f"needs Hopper or newer (compute capability 9.0), this GPU has {has}", "use bf16"
    return (
        [Finding.warning("fp8-unsupported", f"{layout} requests fp8, which {message}", fix)]
        if message
        else []
    )


def gpu_capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU, from the NVIDIA driver; None without a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    command = [program, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
        major, _, minor = said.split()[0].partition(".")
        return int(major), int(minor)
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
        return None


def _weights(raw: RawRecipe, section: str, precision: str | None, layout: Layout | None) -> list[Finding]:
    """The dtype in which trained weights are stored."""
    source = section if raw.values.get(section) else {"value": "reward"}.get(section, section)
    given = raw.values.get(source) or {}
    if not given or raw.setting(f"{section}.use_peft") or _quantised(given):
        return []
    dtype = _dtype(given)
    where = raw.place(f"{source}.dtype", source)
    if _keeps_masters(layout, precision):
        return []
    if dtype in ("float16", "fp16", "half"):
        message = (
            f"{source}.dtype: float16 loads float16 weights for training: gradients underflow and cannot be "
            "unscaled"
        )
        fix = "remove dtype (float32 weights) and write `fp16: true` under train, or use bfloat16"
        return [Finding.error("fp16-weights", message, fix, where)]
    if dtype in ("bfloat16", "bf16"):
        message = (
            f"{source}.dtype: bfloat16 trains bfloat16 weights (8 bits of precision) without float32 master "
            "weights: "
        )
        message += "updates below 1/512 of a weight are lost by rounding"
        fix = "remove dtype (float32 weights, `bf16: true` computes in bfloat16), or use a DeepSpeed layout"
        return [Finding.warning("bf16-weights", message, fix, where)]
    return []


def _quantised(given: dict) -> bool:
    return bool(given.get("load_in_4bit") or given.get("load_in_8bit"))


def _dtype(given: dict) -> str:
    """The dtype in the recipe; for `auto`, the one in a local model's config."""
    dtype = str(given.get("dtype") or "float32")
    if dtype != "auto":
        return dtype
    config = local_config(given.get("model_name_or_path") or "")
    return stored_dtype(config) if config else "auto"


def _keeps_masters(layout: Layout | None, precision: str | None) -> bool:
    """DeepSpeed keeps float32 copies of 16-bit weights; FSDP stores float32 under mixed precision.

    Source: accelerate's fsdp2_prepare_model; without mixed precision it does not change the weights.
    """
    if layout is None:
        return False
    return layout.kind == "deepspeed" or (layout.kind == "fsdp" and precision != "no")
