"""A stage from its command line to its exit status: the code common to every `main`. No torch on import."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ..doctor.check import check_built, check_recipe, preflight
from ..doctor.trainer_level.trial_build import upstream_refusals
from ..exit_status import is_main_process, stage_exit
from ..recipe.read import load_recipe
from ..recipe.stage_recipe import StageRecipe, TrainingRecipe
from ..record.run import Run
from ..report.ending import ending

if TYPE_CHECKING:
    from transformers import Trainer

    from ..models.saved import Saved

Recipe = TypeVar("Recipe", bound=StageRecipe)


@contextmanager
def stage(recipe_class: type[Recipe], argv: list[str] | None) -> Iterator[tuple[Recipe, Run]]:
    """Yield (recipe, run) after recipe, rows and layout were checked and the output directory was claimed.

    argv: path of the recipe, then overrides; None for the command line. The record is written however the
    block ends, and the exit status of the process depends on that end. A finished run prints three last lines
    (report/ending.py).
    """
    with stage_exit():
        recipe = load_recipe(recipe_class, argv, check_recipe)
        with Run(recipe.raw) as run:
            preflight(recipe, run)
            yield recipe, run
        if is_main_process():
            print(ending(recipe.raw), flush=True)


def refuses_as_recipe(build_trainer: Callable) -> Callable:
    """Decorates a `build_trainer`: upstream's errors become refusals of the recipe."""

    @functools.wraps(build_trainer)
    def build(recipe: TrainingRecipe, run: Run) -> Trainer:
        with upstream_refusals(recipe.raw.path if recipe.raw else ""):
            return build_trainer(recipe, run)

    return build


def train(trainer: Trainer, recipe: TrainingRecipe, run: Run) -> Saved | None:
    """Check the built trainer, train, save, reload and compare; see training/train.py.

    Returns the saved model as the comparison loaded it; None on other ranks, and without enough memory.
    """
    from .train import train_and_save  # imports torch: a recipe is refused before that

    check_built(trainer, recipe, run)
    return train_and_save(trainer, recipe, run)
