"""Train a tokenizer on text, or extend one with new tokens, and measure it on held-out text.

    python -m lifecycle_recipes.stages.tokenizer recipes/desk/02-tokenizer.yaml

Reads  data.sources (column `text`); data.eval_sources for the measurement; tokenizer.extend, resize_model.
Writes tokenizer.output_dir: tokenizer.json, tokenizer_config.json, chat_template.jinja, run.json; with resize_model
also the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..data.config import DataConfig, stage_columns
from ..models.new_tokenizer import TokenizerConfig, build_sizes, build_tokenizer
from ..recipe.stage_recipe import StageRecipe
from ..record.run import Run
from ..training.stage import stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class TokenizerRecipe(StageRecipe):
    tokenizer: TokenizerConfig
    data: DataConfig


def main(argv: list[str] | None = None) -> None:
    with stage(TokenizerRecipe, argv) as (recipe, run):
        from ..evals.tokenizer import measure_tokenizer

        config = recipe.tokenizer
        rows, held_out, ledger = load_text(recipe, run)
        measured = held_out or rows
        if config.extend:
            tokenizer = extend(config, measured[config.text_column], run)
        else:
            tokenizer = train(config, rows, measured, ledger, run)
            tokenizer.save_pretrained(config.output_dir)
        run.metrics.update(measure_tokenizer(tokenizer, measured[config.text_column]))


def load_text(recipe: TokenizerRecipe, run: Run) -> tuple:
    """(training rows, held-out rows or None, ledger); a weight of a source is its share of the bytes."""
    from ..data.shares import count_bytes, find_in_weights, meet_weights
    from ..data.sources import load_data

    columns = stage_columns(recipe.raw.stage, recipe.raw.values)
    count = partial(count_bytes, column=recipe.tokenizer.text_column)
    train, held_out, ledger = meet_weights(
        recipe.data, lambda data, again: load_data(data, *columns, recipe.allow), count, "bytes"
    )
    run.note(data=ledger)
    run.report(find_in_weights(ledger["sources"]))
    return train, held_out, ledger


def train(config: TokenizerConfig, rows, measured, ledger: dict, run: Run) -> PreTrainedTokenizerBase:
    """The tokenizer of `vocab_size`; those of `sweep` are measured, printed and noted beside it."""
    from ..evals.vocabulary_sweep import group_rows, sweep
    from ..report.sweep import sweep_text

    texts = rows[config.text_column]
    if not config.sweep:
        return build_tokenizer(texts, config)
    tokenizer, sizes = build_sizes(texts, config)
    groups = group_rows(measured, config.text_column, ledger)
    found = sweep(sizes, texts, groups, config.special_tokens, config.sweep_hidden_size)
    run.note(sweep=found)
    print(sweep_text(found, len(tokenizer)), end="\n\n")
    return tokenizer


def extend(config: TokenizerConfig, texts, run: Run) -> PreTrainedTokenizerBase:
    """The saved tokenizer of `extend` with the new tokens; the model of `resize_model` is saved with rows for them."""
    from ..models.extension import extend_tokenizer, save_resized

    old, tokenizer = extend_tokenizer(config, texts)
    run.note(extended={"from": config.extend, "tokens": len(old), "new_tokens": len(tokenizer) - len(old)})
    if config.resize_model:
        run.note(resized=save_resized(config, old, tokenizer, texts))
    return tokenizer


if __name__ == "__main__":
    main()
