"""Align a model to single replies marked good or bad (KTO).

    accelerate launch -m lifecycle_recipes.stages.kto recipes/desk/08-kto.yaml

Reads  data.sources (columns `prompt`, `completion`, `label`), model.model_name_or_path (the parent).
Writes train.output_dir: weights or adapter, tokenizer, checkpoints, run.json.

The reference is the parent, as in the dpo stage. Unequal numbers of good and bad replies are balanced with
train.desirable_weight and train.undesirable_weight. Rows are read in the order of the file unless the recipe
sets train.train_sampling_strategy: upstream pairs each prompt with its neighbour's reply to estimate the KL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.config import DataConfig
from ..evals.config import EvaluateConfig
from ..evals.measure import measure
from ..recipe.stage_recipe import TrainingRecipe
from ..record.run import Run
from ..training.stage import refuses_as_recipe, stage, train

if TYPE_CHECKING:
    from pathlib import Path

    import trl
    from transformers import PreTrainedTokenizerBase


@dataclass
class KTORecipe(TrainingRecipe):
    model: trl.ModelConfig
    data: DataConfig
    train: trl.KTOConfig
    evaluate: EvaluateConfig | None = None


def main(argv: list[str] | None = None) -> None:
    with stage(KTORecipe, argv) as (recipe, run):
        trainer = build_trainer(recipe, run)
        saved = train(trainer, recipe, run)
        measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model, saved)


@refuses_as_recipe
def build_trainer(recipe: KTORecipe, run: Run) -> trl.KTOTrainer:
    """The `trl.KTOTrainer` of this recipe; the ledger of its rows is noted in `run`."""
    from transformers import set_seed

    from ..data.prepare import over_prepared, prepared_rows
    from ..models.adapters import peft_config
    from ..models.load import load_causal_lm, load_tokenizer
    from ..training.kto import kto_trainer

    args = recipe.train
    tokenizer = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision)
    # The number of rows within which each prompt is paired with its neighbour's reply.
    neighbours = recipe.global_batch_size or args.per_device_train_batch_size
    rows = prepared_rows(recipe, tokenizer, prepare_rows, run, neighbours=neighbours)
    set_seed(args.seed)  # a new adapter is random, and it is made before upstream sets the seed
    adapter = peft_config(recipe.model)
    # Upstream would choose another reference; see the dpo stage.
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


def prepare_rows(
    recipe: KTORecipe, tokenizer: PreTrainedTokenizerBase, scratch: Path, neighbours: int
) -> tuple:
    """(train, held-out, ledger), tokenised as upstream does it; see data/prepare.py."""
    from trl import KTOTrainer

    from ..data.ledger import account_for_replies
    from ..data.prepare import rows_of_trainer
    from ..data.row_faults import require_both_labels
    from ..data.sources import load_data

    columns = ["prompt", "completion", "label"], ["tools"]
    train, held_out, ledger = load_data(recipe.data, *columns, recipe.allow, scratch)
    require_both_labels(train["label"])
    args = recipe.train
    args.per_device_train_batch_size = neighbours  # used only for the pairing
    done = rows_of_trainer(KTOTrainer, args, tokenizer, train, held_out)
    done = account_for_replies(ledger, recipe, (train, held_out), done, ["completion_ids"])
    return *done, ledger


if __name__ == "__main__":
    main()
