"""Whether a run can train: number of optimizer steps, rows per batch, trainable weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...finding import Finding

if TYPE_CHECKING:
    from transformers import Trainer


def find_in_steps(trainer: Trainer, declared: int | None = None) -> list[Finding]:
    """no-steps, rows-below-batch, one-packed-row, all-warmup and nothing-trainable.

    declared: the recipe's global_batch_size, if it has one.
    """
    return [*_trainable(trainer), *(_ppo_steps(trainer) if is_ppo(trainer) else _steps(trainer, declared))]


def is_ppo(trainer: Trainer) -> bool:
    """Whether the trainer is PPO's. It has its own loop: an update samples rollouts, scores and trains."""
    return hasattr(trainer, "reward_model") and hasattr(trainer, "dataloader")


def planned_steps(trainer: Trainer, declared: int | None = None) -> tuple[int, int]:
    """(optimizer steps of the run, rows per step over all processes), as upstream counts them.

    declared: the declared global batch. Rows are then dropped by it (batch_order.py), not per process.
    """
    args = trainer.args
    shared = args.train_batch_size * trainer.accelerator.num_processes
    accumulated = args.gradient_accumulation_steps
    rows = len(trainer.train_dataset)
    if declared and args.dataloader_drop_last:
        rows -= rows % declared
    batches = rows / shared
    batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    if args.max_steps > 0:
        return (args.max_steps if batches else 0), shared * accumulated
    # transformers/trainer.py, set_initial_training_values
    per_epoch = max(math.ceil(batches / accumulated), 1) if batches else 0
    return math.ceil(args.num_train_epochs * per_epoch), shared * accumulated


def _steps(trainer: Trainer, declared: int | None) -> list[Finding]:
    args, rows = trainer.args, len(trainer.train_dataset)
    steps, batch = planned_steps(trainer, declared)
    if not steps:
        message = f"no optimizer step: {rows} rows, {batch} rows per step, {args.num_train_epochs:g} epochs"
        fix = "use more rows, a smaller batch or more epochs"
        if args.dataloader_drop_last:
            fix += ", or remove train.dataloader_drop_last"
        return [Finding.error("no-steps", message, fix)]
    findings = []
    packed = "seq_lengths" in (getattr(trainer.train_dataset, "column_names", None) or [])
    if rows == 1 and packed:
        documents = len(trainer.train_dataset[0]["seq_lengths"])
        message = f"packing put all {documents} documents into one row: an epoch is a single step"
        fix = "lower train.max_length (pretrain: text.block_size), turn packing off, or use more rows"
        findings.append(Finding.warning("one-packed-row", message, fix))
    elif rows < batch:
        kind = "packed rows" if packed else "rows"
        message = f"{rows} {kind} are fewer than one global batch of {batch}"
        keys = "train.per_device_train_batch_size or train.gradient_accumulation_steps"
        fix = f"lower {'global_batch_size' if declared else keys}, or add rows"
        findings.append(Finding.warning("rows-below-batch", message, fix))
    warmup = args.get_warmup_steps(steps)
    if warmup >= steps and args.lr_scheduler_type.value != "constant":
        message = (
            f"warm-up is {warmup} steps, but training only {steps}: train.learning_rate is never reached"
        )
        fix = "lower train.warmup_steps (0.1 is a tenth of all steps)"
        findings.append(Finding.warning("all-warmup", message, fix))
    return findings


def _ppo_steps(trainer: Trainer) -> list[Finding]:
    args, rows = trainer.args, len(trainer.train_dataset)
    if not len(trainer.dataloader):
        batch = args.local_batch_size * trainer.accelerator.num_processes
        # Upstream drops a last batch that is not full, and then waits for the next one in an endless loop.
        message = f"no update: {rows} prompts are fewer than one batch of {batch}"
        fix = "use more prompts, or lower global_batch_size or train.per_device_train_batch_size"
        return [Finding.error("no-steps", message, fix)]
    if not args.num_total_batches:
        message = f"no update: {args.total_episodes} episodes are fewer than one batch of {args.batch_size}"
        return [Finding.error("no-steps", message, "raise train.max_steps or train.total_episodes")]
    return []


def _trainable(trainer: Trainer) -> list[Finding]:
    if any(p.requires_grad for p in trainer.model.parameters()):
        return []
    message = f"none of the model's {sum(1 for _ in trainer.model.parameters())} weights is trainable"
    fix = "set model.lora_target_modules to existing layers, or remove the setting that freezes the model"
    return [Finding.error("nothing-trainable", message, fix)]
