"""Watch training: stop it at the first value that is not finite, and report problems in its log.

Upstream gives callbacks the loss and the gradient norm of logged steps only, so `Watch` reads them from the
trainer. That needs no synchronisation: on a GPU the verdict on a step is read one step later, except before a
checkpoint is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..data.provenance import places
from ..finding import FAILED, refuse
from ..models.non_finite import not_finite
from .batch_order import Remembering, innermost
from .log_warnings import LogSigns, kl_bound
from .ranks import true_anywhere

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from ..record.run import Run

SHOWN = 8  # row numbers in a message; the record contains all
FIX = "lower train.learning_rate, use more warm-up steps, or inspect those rows"


@dataclass
class Step:
    """An optimizer step. verdict: a tensor, [loss is bad, gradient is bad] on any rank."""

    number: int
    learning_rate: float | None
    rows: list[int]
    loss: Any
    norm: Any
    verdict: Any
    known: Any = None  # a CUDA event; once it has occurred, the verdict can be read without waiting


class Watch(TrainerCallback):
    """Raises Refusal `non-finite` with exit status 1 on every rank; reports findings about the log to `run`.

    For `non-finite` the record gets `stopped_at`: step, learning_rate, rows (the whole global batch, as
    numbers in the built training set), and for the first rows their places in the sources and their texts.
    """

    def __init__(self, trainer: Trainer, run: Run):
        self.trainer, self.run = trainer, run
        self.rows = BatchRows()
        losses = getattr(trainer.args, "loss_type", None) or []
        self.signs = LogSigns(
            kl_bound(run.raw.gate, getattr(trainer.args, "response_length", None)), "hinge" in losses
        )
        self.norm, self.rate, self.last = None, None, None
        self._keep_gradient_norm()

    def _keep_gradient_norm(self) -> None:
        """Upstream computes it at every step, but only logs it."""
        compute = self.trainer._get_grad_norm

        def keep(*args, **kwargs):
            self.norm = compute(*args, **kwargs)
            return self.norm

        self.trainer._get_grad_norm = keep

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # PPO has a separate loader.
        loader = (
            train_dataloader if train_dataloader is not None else getattr(self.trainer, "dataloader", None)
        )
        self.rows.follow(loader, args, self.trainer.accelerator.num_processes)

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rate = optimizer.param_groups[0]["lr"] if optimizer is not None else None

    def on_step_end(self, args, state, control, **kwargs):
        """Upstream logs, evaluates and writes a checkpoint right after this callback."""
        loss = getattr(self.trainer, "_tr_loss", None)
        if loss is None:  # PPO: its losses are in the log, at every update
            return
        before, self.last = self.last, self._begin_verdict(args, state.global_step, loss)
        self._judge(before)
        if args.device.type != "cuda" or control.should_save:
            self._judge(self.last)
        if control.should_save:
            # The loss was finite before the update; the update itself may not have been.
            require_finite_weights(self.trainer, self.last)

    def _begin_verdict(self, args: TrainingArguments, number: int, loss) -> Step:
        import torch

        norm = self.norm
        # Under fp16, infinite norms are normal: the gradient scaler skips those steps.
        bad_norm = norm is not None and not args.fp16
        signs = [loss, torch.as_tensor(norm, device=loss.device) if bad_norm else torch.zeros_like(loss)]
        signs = [s.full_tensor() if hasattr(s, "full_tensor") else s for s in signs]
        verdict = (~torch.isfinite(torch.stack([s.float().reshape(()) for s in signs]))).int()
        if args.world_size > 1:  # every rank must leave after the same step
            torch.distributed.all_reduce(verdict, op=torch.distributed.ReduceOp.MAX)
        step = Step(number, self.rate, self.rows.of_step(number), loss.detach().clone(), norm, verdict)
        if verdict.device.type == "cuda":
            step.verdict = torch.empty(2, dtype=torch.int32, pin_memory=True)
            step.verdict.copy_(verdict, non_blocking=True)
            step.known = torch.cuda.Event()
            step.known.record()
        return step

    def _judge(self, step: Step | None) -> None:
        if step is None:
            return
        if step.known is not None:
            step.known.synchronize()
        bad_loss, bad_norm = step.verdict.tolist()
        if bad_loss:
            self.fail("loss", float(step.loss), step)
        if bad_norm:
            self.fail("grad_norm", float(step.norm), step)

    def on_train_end(self, args, state, control, **kwargs):
        self._judge(self.last)

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        for key in ("loss", "grad_norm", "eval_loss", "objective/kl"):
            value = logs.get(key, 0.0)
            if not math.isfinite(value) and not (key == "grad_norm" and args.fp16):
                rows = [] if key == "eval_loss" else self.rows.of_step(state.global_step)
                rate = logs.get("learning_rate", logs.get("lr"))
                self.fail(key, value, Step(state.global_step, rate, rows, value, None, None))
        self.run.report(self.signs.see(logs, state.global_step))

    def fail(self, name: str, value: float, step: Step) -> None:
        """Record where it happened, and raise."""
        rate = "" if step.learning_rate is None else f", learning rate {step.learning_rate:.3g}"
        # Batches differ between ranks: the value of this rank may be finite.
        what = "not finite on another process" if math.isfinite(value) else value
        message = f"{name} is {what} at step {step.number}{rate}"
        if step.rows:
            more = f" and {len(step.rows) - SHOWN} more" if len(step.rows) > SHOWN else ""
            message += f", rows {', '.join(map(str, step.rows[:SHOWN]))}{more} of the built training set"
        # The places of the rows are unknown if no stage has built the trainer.
        origins = self.run.origins
        found = [origins.of(row) for row in step.rows[:SHOWN]] if origins else []
        if found:
            message += f": {places([place for row in found for place in row], SHOWN)}"
        self.run.note(
            stopped_at={
                "step": step.number,
                "learning_rate": step.learning_rate,
                name: str(what),
                "rows": step.rows,
                "places": [places(row, len(row)) for row in found],
                "texts": texts(self.trainer, step.rows[:SHOWN]),
            }
        )
        raise refuse("non-finite", message, FIX, status=FAILED)


class BatchRows:
    """The rows of each optimizer step: stores the row numbers of an epoch in the order of its sampler.

    Batches are distributed to the processes in turn, so one step uses the next `batch x processes x
    accumulation` numbers. A loader without a sampler (a stream) has no numbers.
    """

    def __init__(self):
        self.numbers: list[int] = []
        self.per_step, self.steps = 0, 1

    def follow(self, loader, args: TrainingArguments, processes: int) -> None:
        """Store what the sampler of `loader` yields from now on."""
        batches = innermost(loader)
        if not getattr(batches, "batch_size", None):
            return
        accumulation = 1 if batches.batch_size > args.train_batch_size else args.gradient_accumulation_steps
        self.per_step = batches.batch_size * processes * accumulation
        self.steps = math.ceil(len(loader) / accumulation)
        batches.sampler = Remembering(batches.sampler, self.numbers)

    def of_step(self, number: int) -> list[int]:
        """The rows of optimizer step `number` (from 1), if its epoch is the current one."""
        start = (number - 1) % self.steps * self.per_step
        return self.numbers[start : start + self.per_step]


def texts(trainer: Trainer, rows: list[int], characters: int = 200) -> list[str]:
    """The beginnings of rows of the built training set, decoded from the tokens that the model gets."""
    from ..doctor.trainer_level.forward import row_ids

    decode = getattr(trainer.processing_class, "decode", None)
    if decode is None:
        return []
    return [decode(row_ids(trainer.train_dataset[row])[:characters])[:characters] for row in rows]


def require_finite_weights(trainer: Trainer, step: Step | None = None) -> None:
    """Raise Refusal `non-finite` on every rank if a trained weight is NaN or infinite, before it is saved."""
    bad = not_finite((name, p) for name, p in trainer.model.named_parameters() if p.requires_grad)
    if true_anywhere(bool(bad), trainer.args):
        at = f" after step {step.number}" if step else ""
        which = (
            f"{len(bad)} weights are not finite{at}, {bad[0]} first"
            if bad
            else f"weights on another process are not finite{at}"
        )
        raise refuse("non-finite", which, FIX, status=FAILED)
