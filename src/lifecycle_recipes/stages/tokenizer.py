"""Train a tokenizer on text and measure it on held-out text.

    python -m lifecycle_recipes.stages.tokenizer recipes/desk/02-tokenizer.yaml

Reads  data.sources (column `text`); data.eval_sources for the measurement.
Writes tokenizer.output_dir: tokenizer.json, tokenizer_config.json, chat_template.jinja, run.json.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.config import DataConfig
from ..models.new_tokenizer import TokenizerConfig, build_tokenizer
from ..recipe.stage_recipe import StageRecipe
from ..training.stage import stage


@dataclass
class TokenizerRecipe(StageRecipe):
    tokenizer: TokenizerConfig
    data: DataConfig


def main(argv: list[str] | None = None) -> None:
    with stage(TokenizerRecipe, argv) as (recipe, run):
        from ..data.sources import load_data
        from ..evals.tokenizer import measure_tokenizer

        config = recipe.tokenizer
        train, held_out, ledger = load_data(recipe.data, [config.text_column], allow=recipe.allow)
        run.note(data=ledger)
        tokenizer = build_tokenizer(train[config.text_column], config)
        tokenizer.save_pretrained(config.output_dir)
        run.metrics.update(measure_tokenizer(tokenizer, (held_out or train)[config.text_column]))


if __name__ == "__main__":
    main()
