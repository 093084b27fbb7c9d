"""Measure a saved model: lm-eval tasks, rubric win rate, reward and KL against another model.

    python -m lifecycle_recipes.stages.evaluate recipes/desk/09-evaluate.yaml

Reads  model.model_name_or_path, a run directory or Hub id, and what the evaluate section names.
Writes evaluate.output_dir/run.json; beside a local model, the replies that it gave (replies.json).
Trainer stages measure what they saved in the same way.
"""

from dataclasses import dataclass, field

from ..evals.config import EvaluateConfig


@dataclass
class EvaluateRecipe:
    model: "trl.ModelConfig"  # noqa: F821
    evaluate: EvaluateConfig
    gate: list[str] = field(default_factory=list)
    allow: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)


def main(argv: list[str] | None = None) -> None:
    from ..doctor.check import check_recipe, preflight
    from ..evals.measure import measure
    from ..recipe.read import load_recipe
    from ..record.run import Run, stage_exit

    with stage_exit():
        recipe = load_recipe(EvaluateRecipe, argv, check_recipe)
        with Run.start(recipe) as run:
            preflight(recipe, run)
            measure(recipe.model.model_name_or_path, recipe.evaluate, run, recipe.model)


if __name__ == "__main__":
    main()
