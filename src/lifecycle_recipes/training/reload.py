"""Load a saved model as a user would, and compare its outputs with the trained model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..doctor.trainer_level.step_zero import EXACT, Reading
from ..finding import Finding, Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from ..recipe.stage_recipe import TrainingRecipe

# Tolerance for two sets of logits: the root mean square of their difference, divided by the standard
# deviation of the logits (for the single logit of a reward model: by its absolute value, if that is above 1).
# In float32 another kernel gives 1e-6; bfloat16 rounds each product to 0.4 %; an adapter that was not loaded,
# or a stale file, is far above both.
EXACT_LOGITS, ROUNDED_LOGITS = 1e-3, 0.05
# Memory for loading and a forward over the probe, in addition to the model's bytes.
MARGIN, EXTRA = 1.2, 1 << 30


@dataclass(frozen=True)
class Reloaded:
    """The result of loading a save. differs, allowed: see EXACT_LOGITS. saved: an evals.saved.Saved."""

    findings: list[Finding]
    differs: float | None = None
    allowed: float | None = None
    saved: Any = None


def compare_reloaded(
    trainer: Trainer, recipe: TrainingRecipe, trained: Reading, ids: list[int], size: int
) -> Reloaded:
    """saved-incomplete, saved-differs or, if there is no memory for a second model, saved-not-compared.

    trained: the outputs of the trainer's model for `ids`. size: bytes of the model in memory.
    The model is loaded on this rank only: onto the trainer's device if it fits there, else in host memory.
    """
    import torch

    directory = trainer.args.output_dir
    device = find_room(trainer, size)
    if device is None:
        return Reloaded([_not_compared(directory, size)])
    try:
        saved = _load(directory, trained, recipe, device)
    except torch.OutOfMemoryError:
        return Reloaded([_not_compared(directory, size)])
    except Refusal as refusal:
        return Reloaded(refusal.findings)
    except _cannot_load() as error:
        message = f"the saved model cannot be loaded: {' '.join(str(error).split())[:300]}"
        fix = "the weights do not match the config; save again from the last checkpoint"
        return Reloaded([Finding.error("saved-incomplete", message, fix, directory)])
    with _as_in_training(trainer, device):
        differs, allowed = _difference(saved.model, trained, ids, trainer, device)
    found = []
    if not differs <= allowed:
        how = "standard deviations" if trained.logits is not None else "nats per token"
        message = (
            "the saved model does not reproduce the trained one: on the probe text the outputs differ by"
        )
        message += f" {differs:.2g} {how} (tolerance {allowed:g})"
        fix = "do not use this model: check the layout's state dict type, or save again from the last checkpoint"
        found = [Finding.error("saved-differs", message, fix, directory)]
    return Reloaded(found, differs, allowed, saved)


def _not_compared(directory: str, size: int) -> Finding:
    message = (
        f"not enough memory to load a second model of {size / 1e9:.1f} GB: the saved model was not compared"
    )
    fix = "load it on another machine and compare its outputs"
    return Finding.warning("saved-not-compared", message, fix, directory)


def find_room(trainer: Trainer, size: int) -> Any:
    """The trainer's device or else the CPU, if `size` bytes and a margin are free there; else None."""
    import torch

    device = torch.device(trainer.accelerator.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info(device)[0] > MARGIN * size + EXTRA:
            return device
    return torch.device("cpu") if _free_host_memory() > MARGIN * size else None


def _free_host_memory() -> float:
    """Bytes; infinite if the system does not report it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return float("inf")


def _load(directory: str, trained: Reading, recipe: TrainingRecipe, device):
    from ..models.saved import load_reward, load_saved

    load = load_saved if trained.unit == Reading.unit else load_reward
    return load(directory, recipe.section("model"), device)


def _cannot_load() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


@contextlib.contextmanager
def _as_in_training(trainer: Trainer, device):
    """The precision of training: accelerate runs float32 weights under autocast; DeepSpeed casts them."""
    import torch

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(trainer.accelerator.mixed_precision)
    if kind is None or trainer.accelerator.distributed_type.value == "DEEPSPEED":
        yield
        return
    with torch.autocast(device.type, kind):
        yield


def _difference(
    model: PreTrainedModel, trained: Reading, ids: list[int], trainer: Trainer, device
) -> tuple[float, float]:
    """(difference, tolerance) of the logits, or of the mean log-probability if training yields no logits."""
    import torch

    from ..doctor.trainer_level.forward import logits, mean_of

    theirs = logits(model, ids).float().cpu()
    if trained.logits is None:
        return abs(mean_of(theirs, ids) - trained.value), trained.loose
    if theirs.shape != trained.logits.shape:
        return float("inf"), 0.0
    away = (theirs - trained.logits).square().mean().sqrt().item()
    spread = trained.logits.std().item() if len(ids) > 1 and theirs.numel() > 1 else None
    scale = max(1.0, trained.logits.abs().max().item()) if spread is None else spread
    rounds = trained.loose > EXACT or (device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32)
    return away / scale, ROUNDED_LOGITS if rounds else EXACT_LOGITS
