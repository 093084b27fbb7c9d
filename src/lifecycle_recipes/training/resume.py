"""An interrupted run ends as an uninterrupted one: what upstream does not restore from a checkpoint.

The optimizer, the order of the rows and the random states are restored by upstream.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..record.checkpoints import delete_old_checkpoints, last_checkpoint
from ..record.file import write_json
from ..record.manifest import write_manifest

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

PROGRESS = "progress.json"


class Resume(TrainerCallback):
    """Completes each checkpoint, and restores from the one to resume from. Add it to the callbacks once.

    start: the reading of the model before its first step, which goes on with the run; None for PPO's restart.
    """

    def __init__(self, trainer: Trainer, checkpoint: str | None):
        self.trainer, self.checkpoint = trainer, checkpoint
        self.start: float | None = None
        self.earlier_seconds, self.began = 0.0, 0.0
        keep_dtypes(trainer)
        train_no_further(trainer, checkpoint)
        self._leave_deletion_to_us()
        self._finish_as_one_run()

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = time.monotonic()
        if not self.checkpoint or not (file := Path(self.checkpoint) / PROGRESS).is_file():
            return
        progress = json.loads(file.read_text(encoding="utf-8"))
        trainer = self.trainer
        self.start, self.earlier_seconds = progress["start"], progress["seconds"]
        # A number that is not finite is stored as a string.
        trainer._total_loss_scalar = float(progress["total_loss"])
        trainer._tr_loss += float(progress["loss"])
        trainer._globalstep_last_logged = progress["last_logged"]
        if progress["metrics"] is not None:
            for name, values in progress["metrics"].items():
                trainer._metrics["train"][name] = [float(v) if isinstance(v, str) else v for v in values]
            trainer._total_train_tokens = progress["tokens"]

    def complete(self, directory: Path, args: TrainingArguments) -> None:
        """Write into a checkpoint what upstream does not, and last its manifest; then delete old checkpoints.

        Collective: called on every rank after all of them have written their files.
        """
        trainer, progress = self.trainer, self._progress()
        if not trainer.is_world_process_zero():
            return
        if progress:
            write_json(directory / PROGRESS, progress)
        write_manifest(directory)
        protected = [directory, trainer.state.best_model_checkpoint]
        delete_old_checkpoints(directory.parent, args.save_total_limit, protected)

    def goes_on_from_here(self) -> bool:
        """Whether this run, started again, would resume from a checkpoint of this step."""
        here = Path(self.trainer.args.output_dir) / f"checkpoint-{self.trainer.state.global_step}"
        return not hasattr(self.trainer, "reward_model") and last_checkpoint(here.parent) == str(here)

    def _progress(self) -> dict[str, Any]:
        """The sums from which upstream computes the means in its log and at the end; {} for PPO."""
        trainer = self.trainer
        if not hasattr(trainer, "_total_loss_scalar"):
            return {}
        metrics = getattr(trainer, "_metrics", None)  # of TRL's trainers
        return {
            "total_loss": trainer._total_loss_scalar,
            "loss": trainer.accelerator.reduce(trainer._tr_loss.detach().clone(), "mean").item(),
            "last_logged": trainer._globalstep_last_logged,
            "metrics": metrics and dict(metrics["train"]),
            "tokens": getattr(trainer, "_total_train_tokens", None),
            "seconds": self.earlier_seconds + time.monotonic() - self.began,
            "start": self.start,
        }

    def _leave_deletion_to_us(self) -> None:
        args, save = self.trainer.args, self.trainer._save_checkpoint

        def save_and_keep(*parts, **named):
            limit, args.save_total_limit = args.save_total_limit, None
            try:
                return save(*parts, **named)
            finally:
                args.save_total_limit = limit

        self.trainer._save_checkpoint = save_and_keep

    def _finish_as_one_run(self) -> None:
        """Let train_loss and train_runtime cover the whole run; upstream's cover the steps since the resume."""
        trainer, finalize = self.trainer, self.trainer._finalize_training

        def finalize_whole(trial, num_train_samples, start_time):
            trainer._initial_global_step = 0
            return finalize(trial, num_train_samples, start_time - self.earlier_seconds)

        trainer._finalize_training = finalize_whole


def train_no_further(trainer: Trainer, checkpoint: str | None) -> None:
    """Train no step from a checkpoint of the last one: upstream looks only after a step whether it was the last."""
    run_epoch = trainer._run_epoch

    def run_unless_at_end(**parts):
        trainer.control.should_training_stop |= trainer.state.global_step >= trainer.state.max_steps
        if not trainer.control.should_training_stop:
            run_epoch(**parts)
        elif checkpoint:
            # As after a step. TRL logs its training metrics of a model in training mode only.
            trainer._load_rng_state(checkpoint)
            trainer.model.train()

    trainer._run_epoch = run_unless_at_end


def keep_dtypes(trainer: Trainer) -> None:
    """Load a checkpoint in the dtypes that are trained.

    TRL trains the adapter of a quantised model in bfloat16; PEFT, which the Trainer calls to load a checkpoint,
    makes it float32 (`autocast_adapter_dtype` in peft/peft_model.py, load_adapter).
    """
    load = trainer._load_from_checkpoint

    def load_and_keep(resume_from_checkpoint, model=None):
        model = trainer.model if model is None else model
        before = {name: parameter.dtype for name, parameter in model.named_parameters()}
        load(resume_from_checkpoint, model)
        for name, parameter in model.named_parameters():
            if parameter.dtype != before.get(name, parameter.dtype):
                parameter.data = parameter.data.to(before[name])

    trainer._load_from_checkpoint = load_and_keep
