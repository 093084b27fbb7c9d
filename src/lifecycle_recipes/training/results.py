"""What a finished training reports: its held-out metrics and its best checkpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments


def held_out_metrics(trainer: Trainer) -> dict[str, float]:
    """Metrics of the trained weights on the held-out rows: of the evaluation at the last step, else of a new one.

    Both use the same rows and settings. load_best_model_at_end may have replaced the weights since.
    """
    state = trainer.state
    last = next((e for e in reversed(state.log_history) if any(k.startswith("eval_") for k in e)), {})
    replaced = trainer.args.load_best_model_at_end and best_step(trainer) not in (None, state.global_step)
    if last.get("step") != state.global_step or replaced:
        return trainer.evaluate()
    return {name: value for name, value in last.items() if name != "step"}


def best_step(trainer: Trainer) -> int | None:
    """The step of the best checkpoint; None if none was chosen."""
    path = trainer.state.best_model_checkpoint
    return int(path.rsplit("-", 1)[1]) if path else None


def best_checkpoint(trainer: Trainer) -> dict | None:
    """For the record: the checkpoint that load_best_model_at_end has loaded; None without one."""
    state = trainer.state
    if not trainer.args.load_best_model_at_end or best_step(trainer) is None:
        return None
    return {
        "checkpoint": os.path.basename(state.best_model_checkpoint),
        "step": best_step(trainer),
        "metric": trainer.args.metric_for_best_model,
        "value": state.best_metric,
    }


def evaluation_decides(args: TrainingArguments) -> bool:
    """Whether the best checkpoint or the learning rate depends on evaluations: none may then be left out.

    Upstream sets this key for load_best_model_at_end and for schedules that follow a metric.
    """
    return args.metric_for_best_model is not None
