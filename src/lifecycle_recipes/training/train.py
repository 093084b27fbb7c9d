"""Train, watch and save: what every Trainer-based stage does between `build_trainer` and its evaluation."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from ..doctor.trainer_level.step_zero import differs_from_parent, named_model, probe_ids, read_prepared
from ..exit_status import on_signals
from ..finding import FAILED, Refusal, refuse
from ..models.saved import Saved
from ..models.turn_end import stop_ids_of
from ..record.full_disk import name_full_disk
from ..record.run import Stopped
from .batch_order import keep_order
from .early_stopping import StopEarly
from .eval_loss import measure_once
from .finite import Watch, require_finite_weights
from .hub_repository import prepare_hub_repository
from .layout_watch import LayoutWatch
from .progress import count_parameters, show_progress
from .ranks import true_anywhere
from .results import best_checkpoint, evaluation_decides, held_out_metrics
from .resume import Resume
from .save import Saves
from .upstream_files import no_wrong_card, one_tensorboard_folder
from .weights import find_unmoved, fingerprints

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from ..recipe.stage_recipe import TrainingRecipe
    from ..record.run import Run

# Timings differ from run to run; the metrics of two runs with the same seed do not.
NOT_A_RESULT = re.compile(
    "_runtime$|_per_second$|^epoch$|num_input_tokens_seen|_num_tokens$|model_preparation_time"
)


def train_and_save(trainer: Trainer, recipe: TrainingRecipe, run: Run) -> Saved | None:
    """Train from `run.resume_from` or the start, save to train.output_dir, fill `run.metrics`.

    A run that was trained before (`run.trained`) only gets its log back. A checkpoint of the last step is
    saved and measured without another step.
    Metrics: train_loss, steps and, with an eval dataset, `trainer.evaluate()` without its timings.
    Fields: tokens (seen in training, without padding), tokens_per_second, train_seconds, layout, parameters
    and, with load_best_model_at_end, best.
    Records `probe`, with which a child checks that it starts from this model
    (doctor/trainer_level/step_zero.py).
    Raises Stopped after a SIGTERM or SIGINT (a checkpoint has been written), and Refusal. Exit status 1:
    non-finite, weights-unmoved, parent-dropped, disk-full, no-steps, and what save.py finds. Exit status 2,
    before the first step: what layout_watch.py and hub_repository.py find.
    """
    args = trainer.args
    if run.trained:
        state = (Path(args.output_dir) / TRAINER_STATE_NAME).read_text(encoding="utf-8")
        trainer.state.log_history = json.loads(state)["log_history"]
        return None
    # In the log, upstream replaces a NaN loss by the mean of the others: a failed run would look normal.
    args.logging_nan_inf_filter = False
    if args.include_num_input_tokens_seen == "no":
        args.include_num_input_tokens_seen = "non_padding"
    trained, parameters = count_parameters(trainer)
    run.note(parameters={"trained": trained, "all": parameters})
    prepare_hub_repository(trainer)
    show_progress(trainer, recipe)
    no_wrong_card(trainer, recipe)
    one_tensorboard_folder(trainer)
    stop = StopOnSignal(trainer)
    resume = Resume(trainer, run.resume_from)
    start = AtStart(trainer, recipe, resume)
    saves = Saves(trainer, recipe, run, resume)
    for callback in (LayoutWatch(trainer, recipe, run), stop, Watch(trainer, run), resume, start, saves):
        trainer.add_callback(callback)
    if recipe.early_stopping:
        trainer.add_callback(StopEarly(recipe.early_stopping))
    end_replies_at(trainer.model, trainer.processing_class)
    train_alike_everywhere(trainer, recipe)
    with name_full_disk(args.output_dir), on_signals(stop.ask):
        output = trainer.train(resume_from_checkpoint=run.resume_from)
        if stop.stopped:
            again = (
                ""
                if stop.resumable
                else "; weights split by tensor parallelism cannot be resumed: the run starts from step 0"
            )
            raise Stopped(f"at step {trainer.state.global_step} of {trainer.state.max_steps}{again}")
        if not trainer.state.global_step:
            raise refuse(
                "no-steps",
                "training ended without an optimizer step",
                "use more rows or a smaller batch",
                status=FAILED,
            )
        seen = trainer.state.num_input_tokens_seen
        run.metrics.update(train_loss=output.training_loss, steps=trainer.state.global_step)
        if best := best_checkpoint(trainer):
            run.note(best=best)
        seconds = output.metrics["train_runtime"]
        run.note(tokens=seen, tokens_per_second=seen / seconds, train_seconds=seconds)
        require_finite_weights(trainer)
        start.require_moved(run)
        ids = probe_ids(trainer)
        reading = read_prepared(trainer, ids)
        run.note(probe=start.probe(ids, reading))
        saves.finish(reading, ids)
    asked = true_anywhere(stop.asked_at is not None, args)
    if asked and true_anywhere(trainer.is_world_process_zero() and resume.goes_on_from_here(), args):
        raise Stopped("after its last step, before it was measured")
    if trainer.eval_dataset is not None:
        found = held_out_metrics(trainer)
        run.metrics.update({k: v for k, v in found.items() if not NOT_A_RESULT.search(k)})
    run.note_trained()
    if asked:
        raise Stopped("after training, before its evaluation")
    return saves.reloaded


def train_alike_everywhere(trainer: Trainer, recipe: TrainingRecipe) -> None:
    """Make rows, their order and the held-out loss those of one process. PPO has a separate loop."""
    if hasattr(trainer, "reward_model"):
        return
    if recipe.global_batch_size is not None:
        keep_order(trainer, recipe.global_batch_size)
    measure_once(trainer)


class AtStart(TrainerCallback):
    """Reads the model in its training layout before the first step, to compare it with parent and end."""

    def __init__(self, trainer: Trainer, recipe: TrainingRecipe, resume: Resume):
        self.trainer, self.recipe, self.resume = trainer, recipe, resume
        self.before: dict = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step = state.global_step
        self.before = fingerprints(self.trainer.model)
        # A resumed model already differs from its parent.
        if self.first_step:
            return
        self.resume.start = read_prepared(self.trainer, probe_ids(self.trainer)).value
        if "parent-dropped" in self.recipe.allow:
            return
        if found := differs_from_parent(self.trainer, named_model(self.recipe, "model")):
            raise Refusal(*found, status=FAILED)

    def require_moved(self, run: Run) -> None:
        """Raise Refusal weights-unmoved if no weight changed; report some-weights-unmoved."""
        steps = self.trainer.state.global_step - self.first_step
        found = find_unmoved(self.trainer.model, self.before, self.trainer.args, steps, self.first_step > 0)
        if any(finding.severity == "error" for finding in found):
            raise Refusal(*found, status=FAILED)
        run.report(found)

    def probe(self, ids: list[int], reading) -> dict:
        """The output of the trained model for one text, for its children: {ids, value, start, loose}."""
        return {"ids": ids, "value": reading.value, "start": self.resume.start, "loose": reading.loose}


class StopOnSignal(TrainerCallback):
    """On SIGTERM or SIGINT: finish this step, write a checkpoint, stop. A later signal stops at once.

    A signal within one second counts as the same request: make forwards a signal that the process group has
    already received.
    """

    def __init__(self, trainer: Trainer):
        self.asked_at: float | None = None
        self.stopped = False
        # Upstream writes no optimizer state under tensor parallelism (transformers/trainer.py).
        self.resumable = not getattr(trainer, "is_distributed_loading_by_transformers", False)

    def ask(self, number, frame) -> None:
        """The handler of both signals."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()
        elif time.monotonic() - self.asked_at > 1:
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs):
        if self._asked_anywhere(args) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
            # This checkpoint must be resumable even if the recipe saves only weights in the others.
            args.save_only_model = not self.resumable
            # An evaluation that would have come at this step is only needed if a later step depends on it.
            control.should_evaluate = control.should_evaluate and evaluation_decides(args)

    def on_epoch_end(self, args, state, control, **kwargs):
        """Upstream ends the epoch at a stop, and would evaluate in its middle."""
        if self.stopped and not (evaluation_decides(args) and float(state.epoch).is_integer()):
            control.should_evaluate = False

    def _asked_anywhere(self, args: TrainingArguments) -> bool:
        # A signal reaches the ranks at different moments; all of them must leave after the same step.
        return true_anywhere(self.asked_at is not None, args)


def end_replies_at(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make generation stop at all stop tokens: the tokenizer's eos and those of the parent."""
    generation = getattr(model, "generation_config", None)
    if generation is None or tokenizer.eos_token_id is None:
        return
    ends = stop_ids_of(generation.eos_token_id, tokenizer.eos_token_id)
    generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.config.eos_token_id = tokenizer.eos_token_id
