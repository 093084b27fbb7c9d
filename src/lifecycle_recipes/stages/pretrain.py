"""Pretrain a causal language model on text, from random weights or from a checkpoint.

    accelerate launch -m lifecycle_recipes.stages.pretrain recipes/desk/03-pretrain.yaml

Reads  data.sources (column `text`), architecture.tokenizer or model.model_name_or_path.
Writes train.output_dir: weights, tokenizer, checkpoints, run.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.config import DataConfig, TextConfig
from ..evals.config import EvaluateConfig
from ..evals.measure import measure
from ..models.from_config import Architecture
from ..recipe.stage_recipe import TrainingRecipe
from ..record.run import Run
from ..training.stage import refuses_as_recipe, stage, train

if TYPE_CHECKING:
    from pathlib import Path

    import transformers
    import trl
    from transformers import PreTrainedTokenizerBase


@dataclass
class PretrainRecipe(TrainingRecipe):
    text: TextConfig
    data: DataConfig
    train: transformers.TrainingArguments
    architecture: Architecture | None = None
    model: trl.ModelConfig | None = None
    evaluate: EvaluateConfig | None = None


def main(argv: list[str] | None = None) -> None:
    with stage(PretrainRecipe, argv) as (recipe, run):
        trainer = build_trainer(recipe, run)
        saved = train(trainer, recipe, run)
        for name in {"eval_bits_per_byte", "eval_perplexity"} & set(run.metrics):
            run.metrics[name.removeprefix("eval_")] = run.metrics.pop(name)
        measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model, saved)


@refuses_as_recipe
def build_trainer(recipe: PretrainRecipe, run: Run) -> transformers.Trainer:
    """The stock `transformers.Trainer` over packed blocks; `run` gets the ledger of rows and tokens."""
    from transformers import Trainer, set_seed

    from ..data.packing import BlockCollator, text_measures, token_losses
    from ..data.prepare import prepared_rows
    from ..models.config_file import require_room_for_blocks
    from ..models.from_config import start_model

    text, args = recipe.text, recipe.train
    set_seed(args.seed)
    tokenizer, model = start_model(recipe.architecture, recipe.model, args)
    require_room_for_blocks(text.block_size, model.config.get_text_config().to_dict())
    rows = prepared_rows(recipe, tokenizer, prepare_rows, run)
    # The collator reads seq_lengths, which is not an input of the model.
    args.remove_unused_columns = False
    flash = "flash" in (model.config._attn_implementation or "")
    return Trainer(
        model=model,
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=tokenizer,
        data_collator=BlockCollator(tokenizer.pad_token_id or 0, text.block_size, flatten=flash),
        compute_metrics=None if rows.held_out is None else text_measures(rows.ledger["eval"]["bytes"]),
        preprocess_logits_for_metrics=token_losses,
    )


def prepare_rows(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase, scratch: Path) -> tuple:
    """(train, held-out, ledger), tokenised and packed; see data/prepare.py."""
    from ..data.packing import pack_documents
    from ..data.sources import load_data

    text = recipe.text
    how = tokenizer, text.column, text.block_size, text.packing
    train, held_out, ledger = load_data(recipe.data, [text.column], (), recipe.allow, scratch)
    train, ledger["train"] = pack_documents(train, *how)
    if held_out is not None:
        held_out, ledger["eval"] = pack_documents(held_out, *how)
    return train, held_out, ledger


if __name__ == "__main__":
    main()
