"""A decision that all processes of a run make together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainingArguments


def true_anywhere(value: bool, args: TrainingArguments) -> bool:
    """Whether `value` is true on any rank. Collective; args: the TrainingArguments."""
    if args.world_size == 1:
        return value
    import torch

    flag = torch.tensor(int(value), device=args.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag)
