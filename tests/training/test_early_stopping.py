"""Training ends when evaluations stop improving, at the same step with and without an interruption."""

import pytest
from small_trainer import make_trainer, plain_recipe
from transformers import TrainerCallback

from lifecycle_recipes.recipe.stage_recipe import EarlyStopping
from lifecycle_recipes.record.run import Run, Stopped
from lifecycle_recipes.training.train import train_and_save

# No improvement is as large as this threshold: the first evaluation is the best, the third ends training.
STOPPING = EarlyStopping(patience=2, threshold=100.0)

AT_THE_END = -1


class StopAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Stopped

    def on_train_end(self, args, state, control, **kwargs):
        if self.step == AT_THE_END:
            raise Stopped


def train(model_dir, output_dir, interrupted_at: int = 0) -> dict[str, float]:
    each_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(
        model_dir, output_dir, StopAt(interrupted_at), load_best_model_at_end=True, **each_step
    )
    recipe = plain_recipe(output_dir)
    recipe.early_stopping = STOPPING
    with Run(recipe.raw) as run:
        train_and_save(trainer, recipe, run)
    return run.metrics


@pytest.mark.model
def test_it_stops_after_that_many_evaluations_also_across_a_resume(tiny_model_dir, tmp_path):
    straight = train(tiny_model_dir, tmp_path / "straight")
    assert straight["steps"] == 3
    with pytest.raises(Stopped):
        train(tiny_model_dir, tmp_path / "resumed", interrupted_at=2)
    resumed = train(tiny_model_dir, tmp_path / "resumed")
    assert (resumed["steps"], resumed["eval_loss"]) == (3, straight["eval_loss"])


@pytest.mark.model
def test_a_run_that_was_over_trains_no_further(tiny_model_dir, tmp_path):
    straight = train(tiny_model_dir, tmp_path / "straight")
    with pytest.raises(Stopped):
        train(tiny_model_dir, tmp_path / "resumed", interrupted_at=AT_THE_END)
    assert train(tiny_model_dir, tmp_path / "resumed") == straight
