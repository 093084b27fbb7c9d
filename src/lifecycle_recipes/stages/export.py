"""Export a trained model: adapters merged, smaller copies beside it, each compared with the trained model.

    python -m lifecycle_recipes.stages.export recipes/desk/11-export.yaml

Reads  model.model_name_or_path, a run directory or Hub id, and what the evaluate section names.
Writes export.output_dir: the model with its tokenizer and template, a directory per form (int8, nf4, gguf-q8_0, ...)
       and per pruned copy (pruned-50, ...), run.json with the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..evals.config import EvaluateConfig
from ..publish.config import ExportConfig, ExportedModel, PruneConfig
from ..recipe.stage_recipe import StageRecipe
from ..record.full_disk import name_full_disk
from ..training.stage import stage


@dataclass
class ExportRecipe(StageRecipe):
    model: ExportedModel
    export: ExportConfig
    prune: PruneConfig | None = None
    evaluate: EvaluateConfig | None = None


def main(argv: list[str] | None = None) -> None:
    with stage(ExportRecipe, argv) as (recipe, run):
        from ..publish.export import export

        with name_full_disk(recipe.export.output_dir):
            export(recipe.model, recipe.export, recipe.prune, recipe.evaluate, run)


if __name__ == "__main__":
    main()
