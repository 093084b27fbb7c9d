"""Curate raw rows: duplicates, language, quality, personal data, leakage, mixture; every row accounted for.

    python -m lifecycle_recipes.stages.curate recipes/desk/01-curate.yaml

Reads  data.sources, files or Hub datasets, and what the steps name (evaluation sets, a model, word lists).
Writes curate.output_dir: train.jsonl, held_out.jsonl, left_out.jsonl with a reason for every row that is in neither,
       edits.jsonl, ledger.json, run.json.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..curation.config import CurateConfig, CurateData
from ..recipe.stage_recipe import StageRecipe
from ..training.stage import stage


@dataclass
class CurateRecipe(StageRecipe):
    data: CurateData
    curate: CurateConfig


def main(argv: list[str] | None = None) -> None:
    with stage(CurateRecipe, argv) as (recipe, run):
        from ..curation.curate import curate

        curate(recipe.curate, recipe.data, recipe.raw.values, run)


if __name__ == "__main__":
    main()
