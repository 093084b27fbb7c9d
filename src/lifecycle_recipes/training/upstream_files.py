"""Files that upstream writes beside the weights: its model card, and the curves of TensorBoard."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..doctor.trainer_level.step_zero import named_model
from ..record.parents import is_local

if TYPE_CHECKING:
    from transformers import Trainer

    from ..recipe.stage_recipe import TrainingRecipe


def no_wrong_card(trainer: Trainer, recipe: TrainingRecipe) -> None:
    """Write upstream's README.md only where it is true: for a push, of a model that starts from a Hub id.

    For a local parent it would link to "None" as the base model (trl/trainer/base_trainer.py).
    """
    base = named_model(recipe, "model")
    if not trainer.args.push_to_hub or (base and is_local(base)):
        trainer.create_model_card = lambda *args, **kwargs: None


def one_tensorboard_folder(trainer: Trainer) -> None:
    """Curves in <output_dir>/runs: upstream's folder has the time in its name, so a resumed run has two."""
    from transformers.integrations import TensorBoardCallback

    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = os.path.join(trainer.args.output_dir, "runs")
