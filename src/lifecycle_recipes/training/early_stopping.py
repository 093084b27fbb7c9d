"""End training when evaluations stop improving: upstream's callback, which also counts across a resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import EarlyStoppingCallback

if TYPE_CHECKING:
    from ..recipe.stage_recipe import EarlyStopping


class StopEarly(EarlyStoppingCallback):
    """Continues the count of the checkpoint from which a run resumes.

    Upstream restores it only together with the state of every other callback
    (`restore_callback_states_from_checkpoint`).
    """

    def __init__(self, config: EarlyStopping):
        super().__init__(config.patience, config.threshold)

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        saved = (state.stateful_callbacks or {}).get(type(self).__name__, self.state())
        self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]
        # Upstream's loop looks at this only after a step; resume.train_no_further looks before.
        control.should_training_stop |= self.early_stopping_patience_counter >= self.early_stopping_patience
