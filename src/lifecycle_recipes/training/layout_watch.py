"""The layout contract once the model is prepared: sharding, dtypes and attention, asked for and real."""

import time

from transformers import TrainerCallback

from ..finding import Finding, Refusal
from ..layouts.effective import effective_layout, layout_record
from .sharding import find_in_optimizer, find_in_prepared, inner_optimizer, optimizer_state_dtype


class LayoutWatch(TrainerCallback):
    """Raises Refusal with exit status 2 on every rank, before the first optimizer step is taken.

    Completes `layout` in the record: sharded, optimizer_sharded, attention, dtypes of weights, master
    weights, gradients and optimizer state. Its time is added to `check_seconds`.
    """

    def __init__(self, trainer, recipe, run):
        self.trainer, self.recipe, self.run = trainer, recipe, run
        asked, runs = getattr(getattr(recipe, "raw", None), "layout", None), effective_layout(trainer.args)
        self.wanted = asked or runs
        self.layout = layout_record(trainer.args, asked, runs)
        self.seconds = 0.0
        self.hooks: list = []

    def on_train_begin(self, args, state, control, **kwargs):
        started = time.monotonic()
        asks = getattr(self.recipe, "model", None)
        attention = getattr(asks, "attn_implementation", None)
        facts, findings = find_in_prepared(self.trainer, self.wanted, attention)
        self.layout |= facts
        self.seconds += time.monotonic() - started
        self._note(findings)
        optimizer = inner_optimizer(self.trainer.optimizer)
        self.hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._before_step()),
            optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]

    def _before_step(self) -> None:
        started = time.monotonic()
        self.hooks.pop(0).remove()
        dtypes, findings = find_in_optimizer(self.trainer, self.wanted, self._wants_float32())
        self.layout["dtypes"] |= dtypes
        self.seconds += time.monotonic() - started
        self._note(findings)

    def _wants_float32(self) -> bool:
        """Whether every model that this recipe trains is loaded in float32; PPO trains a value model, too."""
        recipe = self.recipe
        trained = [getattr(recipe, "model", None)]
        if hasattr(recipe, "reward"):
            trained.append(getattr(recipe, "value", None) or recipe.reward)
        return all(getattr(config, "dtype", None) in (None, "float32") for config in trained)

    def _after_step(self) -> None:
        started = time.monotonic()
        self.hooks.pop().remove()
        self.layout["dtypes"]["optimizer_state"] = optimizer_state_dtype(self.trainer)
        self.seconds += time.monotonic() - started
        self._note([])

    def _note(self, findings: list[Finding]) -> None:
        checked = getattr(getattr(self.recipe, "raw", None), "checked", None)
        if checked is not None:  # on rank 0
            before = checked.seconds.get("layout", 0.0)
            checked.seconds["layout"] = round(before + self.seconds, 3)
            self.seconds = 0.0
            self.run.note(check_seconds=checked.seconds)
        self.run.note(layout=self.layout)
        if findings:
            raise Refusal(*findings)
