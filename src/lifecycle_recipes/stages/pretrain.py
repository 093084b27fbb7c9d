"""Pretrain a causal language model on text, from nothing or from a checkpoint.

    accelerate launch -m lifecycle_recipes.stages.pretrain recipes/desk/03-pretrain.yaml

Reads  data.sources (column `text`), architecture.tokenizer or model.model_name_or_path.
Writes train.output_dir: weights, tokenizer, checkpoints, run.json.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.config import DataConfig
from ..evals.config import EvaluateConfig
from ..finding import refuse


@dataclass
class Architecture:
    """A model built from nothing. model_type: as in transformers (`llama`, `qwen3`, ...).

    config: keys of that model's config class; vocabulary size and special ids come from the tokenizer.
    tokenizer: the run directory (or Hub id, with tokenizer_revision) whose tokenizer the model speaks.
    """

    model_type: str
    tokenizer: str
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer_revision: str | None = None


@dataclass
class TextConfig:
    """block_size: tokens per row. column: the column that holds the text.

    packing: `bfd` fills blocks with whole documents (best fit first; longer ones are cut); `none` gives
    every document, or piece of one, a row of its own.
    """

    block_size: int
    column: str = "text"
    packing: Literal["bfd", "none"] = "bfd"


@dataclass
class PretrainRecipe:
    text: TextConfig
    data: DataConfig
    train: "transformers.TrainingArguments"  # noqa: F821
    architecture: Architecture | None = None
    model: "trl.ModelConfig | None" = None  # noqa: F821
    evaluate: EvaluateConfig | None = None
    global_batch_size: int | None = None
    gate: list[str] = field(default_factory=list)
    allow: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)


def main(argv: list[str] | None = None) -> None:
    from ..doctor.check import check_built, check_recipe, preflight
    from ..doctor.trainer_level.trial_build import upstream_refusals
    from ..evals.measure import measure
    from ..recipe.read import load_recipe
    from ..record.run import Run, stage_exit

    with stage_exit():
        recipe = load_recipe(PretrainRecipe, argv, check_recipe)
        with Run.start(recipe) as run:
            preflight(recipe, run)
            from ..training.train import train_and_save  # imports torch: a recipe is refused before that

            with upstream_refusals(recipe.raw.path):
                trainer = build_trainer(recipe, run)
            check_built(trainer, recipe, run)
            train_and_save(trainer, recipe, run)
            for name in {"eval_bits_per_byte", "eval_perplexity"} & set(run.metrics):
                run.metrics[name.removeprefix("eval_")] = run.metrics.pop(name)
            measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model)


def build_trainer(recipe: PretrainRecipe, run):
    """The stock `transformers.Trainer` over packed blocks; `run` gets the ledger of rows and tokens."""
    from transformers import Trainer, set_seed

    from ..data.packing import BlockCollator, text_measures, token_losses
    from ..data.prepare import prepared_rows
    from ..models.from_config import build_causal_lm
    from ..models.load import load_causal_lm, load_tokenizer

    start = recipe.model and recipe.model.model_name_or_path
    if bool(start) == bool(recipe.architecture):
        raise refuse(
            "no-single-start",
            "a pretrain recipe needs exactly one of `architecture` (random weights) and `model.model_name_or_path`",
            "give one of the two",
        )
    if start and recipe.model.use_peft:
        raise refuse(
            "no-effect", "pretraining trains every weight; model.use_peft has no effect", "remove it"
        )
    text, args = recipe.text, recipe.train
    if start:
        tokenizer = load_tokenizer(start, recipe.model.model_revision)
    else:
        source = recipe.architecture
        tokenizer = load_tokenizer(source.tokenizer, source.tokenizer_revision or "main")
    set_seed(args.seed)
    if start:
        model = load_causal_lm(recipe.model, args)
    else:
        model = build_causal_lm(recipe.architecture, tokenizer, recipe.model)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and text.block_size > longest:
        raise refuse(
            "block-too-long",
            f"text.block_size {text.block_size} exceeds the model's {longest} positions",
            "lower it, or raise max_position_embeddings",
        )
    rows = prepared_rows(recipe, tokenizer, prepare_rows, run)
    # The collator reads seq_lengths, which is no input of the model.
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


def prepare_rows(recipe: PretrainRecipe, tokenizer, scratch) -> tuple:
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
