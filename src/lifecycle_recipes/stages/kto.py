"""Align a model to single replies marked good or bad (KTO).

    accelerate launch -m lifecycle_recipes.stages.kto recipes/desk/08-kto.yaml

Reads  data.sources (columns `prompt`, `completion`, `label`), model.model_name_or_path (the parent).
Writes train.output_dir: weights or adapter, tokenizer, checkpoints, run.json.

The reference is the parent, as in the dpo stage. Unequal numbers of good and bad replies are balanced with
train.desirable_weight and train.undesirable_weight. Rows are read in the order of the file unless the recipe
sets train.train_sampling_strategy: upstream pairs each prompt with its neighbour's reply to estimate the KL.
"""

from dataclasses import dataclass, field

from ..data.config import DataConfig
from ..evals.config import EvaluateConfig
from ..finding import refuse


@dataclass
class KTORecipe:
    model: "trl.ModelConfig"  # noqa: F821
    data: DataConfig
    train: "trl.KTOConfig"  # noqa: F821
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
        recipe = load_recipe(KTORecipe, argv, check_recipe)
        with Run.start(recipe) as run:
            preflight(recipe, run)
            from ..training.train import train_and_save  # imports torch: a recipe is refused before that

            with upstream_refusals(recipe.raw.path):
                trainer = build_trainer(recipe, run)
            check_built(trainer, recipe, run)
            train_and_save(trainer, recipe, run)
            measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model)


def build_trainer(recipe: KTORecipe, run):
    """The `trl.KTOTrainer` of this recipe; the ledger of its rows is noted in `run`."""
    from transformers import set_seed

    from ..data.prepare import over_prepared, prepared_rows
    from ..models.adapters import peft_config
    from ..models.load import load_causal_lm, load_tokenizer
    from ..training.kto import kto_trainer

    args = recipe.train
    tokenizer = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision)
    # Each prompt is paired with its neighbour's reply within so many rows.
    neighbours = recipe.global_batch_size or args.per_device_train_batch_size
    rows = prepared_rows(recipe, tokenizer, prepare_rows, run, neighbours=neighbours)
    set_seed(args.seed)  # a new adapter is random, and made before upstream seeds
    adapter = peft_config(recipe.model)
    # Upstream's own choice of reference would be another one, see the dpo stage.
    needs_copy = adapter is None and not args.precompute_ref_log_probs
    return over_prepared(kto_trainer(recipe.global_batch_size))(
        model=load_causal_lm(recipe.model, args),
        ref_model=load_causal_lm(recipe.model, args) if needs_copy else None,
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=tokenizer,
        peft_config=adapter,
    )


def prepare_rows(recipe: KTORecipe, tokenizer, scratch, neighbours: int) -> tuple:
    """(train, held-out, ledger), tokenised as upstream does it; see data/prepare.py."""
    import logging

    from trl import KTOTrainer

    from ..data.ledger import count_too_long, count_truncated
    from ..data.prepare import rows_of_trainer
    from ..data.sources import load_data

    columns = ["prompt", "completion", "label"], ["tools"]
    train, held_out, ledger = load_data(recipe.data, *columns, recipe.allow, scratch)
    if len(set(train["label"])) < 2:
        raise refuse(
            "one-label", f"every label is {train['label'][0]}", "KTO needs both good and bad replies"
        )
    # The check has said it already, as label-weights, unless the recipe waives it.
    upstream = logging.getLogger("trl.trainer.kto_trainer")
    upstream.addFilter(lambda record: "in an ideal range" not in record.getMessage())
    args = recipe.train
    args.per_device_train_batch_size = neighbours  # read for the pairing and for nothing else
    done = rows_of_trainer(KTOTrainer, args, tokenizer, train, held_out)
    count_too_long(ledger, (train, held_out), done)
    count_truncated(ledger, done[0], args.max_length, ["completion_ids"])
    return *done, ledger


if __name__ == "__main__":
    main()
