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
        self.over = False  # the count was full when the run resumed

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        saved = (state.stateful_callbacks or {}).get(type(self).__name__, self.state())
        self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]
        self.over = self.early_stopping_patience_counter >= self.early_stopping_patience
        control.should_training_stop |= self.over

    def on_step_end(self, args, state, control, **kwargs):
        # Upstream's loop looks at should_training_stop only after a step. That step must not become the best.
        if self.over:
            control.should_evaluate = control.should_save = False

    on_epoch_end = on_step_end
