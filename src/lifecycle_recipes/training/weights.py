"""Trainable weights before, during and after training, under every sharding. Torch inside functions only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..finding import Finding
from ..models.non_finite import local

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

# With fewer, LoRA's A has had no gradient: B starts at 0, and the first warm-up step has learning rate 0.
STEPS_TO_MOVE = 3
SHOWN = 3


def fingerprints(model: PreTrainedModel) -> dict[str, tuple[float, float]]:
    """Name -> (sum, norm) of the part of every trainable weight on this rank, in double precision."""
    import torch

    parts = {name: local(p) for name, p in model.named_parameters() if p.requires_grad}
    if not parts:
        return {}
    found = [
        torch.stack([part.sum(dtype=torch.float64), torch.linalg.vector_norm(part, dtype=torch.float64)])
        for part in parts.values()
    ]
    return dict(zip(parts, map(tuple, torch.stack(found).tolist()), strict=True))


def find_unmoved(
    model: PreTrainedModel, before: dict, args: TrainingArguments, steps: int, resumed: bool = False
) -> list[Finding]:
    """weights-unmoved (error: none changed) or some-weights-unmoved; before: the `fingerprints` `steps` ago.

    That a part did not change is reported from STEPS_TO_MOVE optimizer steps on, and that nothing did from the
    first: the run would save its parent. resumed: the last steps of a schedule may be too small to be seen, so
    fewer than STEPS_TO_MOVE show nothing. Collective: called on every rank.
    """
    if steps < (STEPS_TO_MOVE if resumed else 1) or not before:
        return []
    now = fingerprints(model)
    still = any_rank([name for name in before if now.get(name) == before[name]], list(before), args)
    if not still:
        return []
    dtypes = {str(p.dtype).removeprefix("torch.") for n, p in model.named_parameters() if n in still}
    low = dtypes - {"float32"}
    fix = "check train.learning_rate, and which weights the loss depends on"
    if steps < STEPS_TO_MOVE and args.warmup_steps:
        fix = "train for more steps: the learning rate of the first warm-up step is 0"
    if low:
        fix = (
            f"in {low.pop()} small updates are lost by rounding: load float32 weights (model.dtype) and set "
            "train.bf16"
        )
    if len(still) == len(before):
        message = f"none of {len(before)} trainable weights changed in {steps} step{'s' * (steps > 1)}"
        return [Finding.error("weights-unmoved", message, fix)]
    if steps < STEPS_TO_MOVE:
        return []
    names = ", ".join(still[:SHOWN]) + (f" and {len(still) - SHOWN} more" if len(still) > SHOWN else "")
    message = f"{len(still)} of {len(before)} trainable weights did not change in {steps} steps: {names}"
    return [Finding.warning("some-weights-unmoved", message, fix)]


def any_rank(still: list[str], names: list[str], args: TrainingArguments) -> list[str]:
    """The `names` that are in `still` on every rank: a shard may contain only padding."""
    if args.world_size == 1:
        return still
    import torch

    flags = torch.tensor([int(name in set(still)) for name in names], device=args.device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MIN)
    return [name for name, flag in zip(names, flags.tolist(), strict=True) if flag]
