"""Measure a saved model: lm-eval tasks, rubric win rate, reward and KL against another model.

    python -m lifecycle_recipes.stages.evaluate recipes/desk/12-evaluate.yaml

Reads  model.model_name_or_path, a run directory or Hub id, and what the evaluate section names.
Writes evaluate.output_dir/run.json; the replies of a local model go beside that model (replies.json).
Trainer stages measure their saved model in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..evals.config import EvaluateConfig
from ..evals.measure import measure
from ..recipe.stage_recipe import StageRecipe
from ..training.stage import stage

if TYPE_CHECKING:
    import trl


@dataclass
class EvaluateRecipe(StageRecipe):
    model: trl.ModelConfig
    evaluate: EvaluateConfig


def main(argv: list[str] | None = None) -> None:
    with stage(EvaluateRecipe, argv) as (recipe, run):
        measure(recipe.model.model_name_or_path, recipe.evaluate, run, recipe.model)


if __name__ == "__main__":
    main()
