"""What a user sees while a stage trains: a readable line per log entry and, on a terminal, upstream's bar."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..data.shares import REPLIES
from ..doctor.trainer_level.forward import language_model
from ..layouts.effective import rows_per_step
from .layout_watch import whole_size
from .log_line import log_line, start_line

if TYPE_CHECKING:
    from transformers import Trainer

    from ..recipe.stage_recipe import TrainingRecipe

SAMPLED = 64  # rows whose mean length is given as the usual one


def show_progress(trainer: Trainer, recipe: TrainingRecipe) -> None:
    """Replace upstream's bar and dictionaries by Bar and LogLines; call it before the model is wrapped.

    Dictionaries stay with `--verbose`, and with LIFECYCLE_LOG=dict where stderr is no terminal.
    """
    terminal = sys.stderr.isatty()
    # TrainingArguments turns the bar off for TRANSFORMERS_VERBOSITY=error (quiet.py): only the recipe counts.
    bar = terminal and not recipe.raw.setting("train.disable_tqdm")
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if "verbose" in recipe.raw.flags or (not terminal and os.environ.get("LIFECYCLE_LOG") == "dict"):
        trainer.add_callback(ProgressCallback() if bar else PrinterCallback())
        return
    if bar:
        trainer.add_callback(Bar())
    trainer.add_callback(LogLines(trainer, recipe))


class Bar(ProgressCallback):
    """Upstream's bar without its dictionaries."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class LogLines(TrainerCallback):
    """Prints what is trained, then one line per log entry and evaluation, on rank 0."""

    def __init__(self, trainer: Trainer, recipe: TrainingRecipe):
        self.trainer, self.recipe = trainer, recipe
        self.trained, self.parameters = count_parameters(trainer)
        self.first_step, self.started = 0, time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step, self.started = state.global_step, time.monotonic()
        if not state.is_world_process_zero:
            return
        rows, layout = self.trainer.train_dataset, self.recipe.raw.layout
        readers = layout.data_parallel if layout else args.world_size  # ranks with different rows
        line = start_line(
            self.trained,
            self.parameters,
            len(rows) if hasattr(rows, "__len__") else None,
            state.global_step,
            state.max_steps,
            self.recipe.global_batch_size or rows_per_step(args, readers),
            None if hasattr(self.trainer, "reward_model") else tokens_per_row(rows),
        )
        say(line)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self._between_logs(state, logs or {}):
            return
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        seconds = (time.monotonic() - self.started) / done * left if done > 0 else None
        if line := log_line(logs or {}, state.global_step, state.max_steps, seconds):
            say(line)

    @staticmethod
    def _between_logs(state, logs: dict) -> bool:
        """PPO logs every update, whatever train.logging_steps is."""
        every = int(getattr(state, "logging_steps", None) or 1)
        return (
            "objective/kl" in logs and state.global_step % every > 0 and state.global_step < state.max_steps
        )


def say(line: str) -> None:
    """Print to stdout, above a bar if there is one."""
    tqdm.write(line)
    sys.stdout.flush()  # a log file is followed while the run goes on


def count_parameters(trainer: Trainer) -> tuple[int, int]:
    """(trained, all) parameters of the policy over all ranks; a 4-bit weight counts with its unpacked shape."""
    sizes = [(p.requires_grad, _size(p)) for p in language_model(trainer).parameters()]
    return sum(size for trained, size in sizes if trained), sum(size for _, size in sizes)


def _size(parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else whole_size(parameter)


def tokens_per_row(rows) -> int | None:
    """Mean tokens of the first built rows, both texts of a pair included; None for a stream."""
    if not hasattr(rows, "__len__") or not len(rows):
        return None
    lengths = [_tokens(rows[i]) for i in range(min(SAMPLED, len(rows)))]
    return round(sum(lengths) / len(lengths)) or None


def _tokens(row: dict) -> int:
    replies = [len(row[column]) for column in REPLIES if column in row]
    return sum(replies) + len(row.get("prompt_ids", [])) * len(replies) + len(row.get("input_ids", []))
