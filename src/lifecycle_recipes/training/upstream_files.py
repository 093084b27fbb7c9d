"""Files that upstream writes beside the weights: its model card, and the curves of TensorBoard."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..doctor.trainer_level.forward import language_model
from ..doctor.trainer_level.step_zero import named_model
from ..record.parents import is_local

if TYPE_CHECKING:
    from transformers import Trainer

    from ..recipe.stage_recipe import TrainingRecipe


def no_wrong_card(trainer: Trainer, recipe: TrainingRecipe) -> None:
    """Write upstream's README.md only where it is true: for a push, of a model that starts from a Hub id.

    For a local parent it would link to "None" as the base model (trl/trainer/base_trainer.py). PEFT writes one, too,
    of blanks to fill in.
    """
    base = named_model(recipe, "model")
    if trainer.args.push_to_hub and not (base and is_local(base)):
        return
    trainer.create_model_card = lambda *args, **kwargs: None
    model = language_model(trainer)
    if hasattr(model, "create_or_update_model_card"):
        model.create_or_update_model_card = lambda output_dir: None


def one_tensorboard_folder(trainer: Trainer) -> None:
    """Curves in <output_dir>/runs: upstream's folder has the time in its name, so a resumed run has two."""
    from transformers.integrations import TensorBoardCallback

    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = os.path.join(trainer.args.output_dir, "runs")
