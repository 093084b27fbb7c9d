"""Align a model to preference pairs without a reward model (DPO, IPO and the losses of train.loss_type).

    accelerate launch -m lifecycle_recipes.stages.dpo recipes/desk/07-dpo.yaml

Reads  data.sources (columns `chosen`, `rejected`, usually `prompt`), model.model_name_or_path (the parent).
Writes train.output_dir: weights or adapter, tokenizer, checkpoints, run.json.

The reference model is always the parent. The adapter of a LoRA parent is merged first: a new adapter then
starts from the parent, and the model below that adapter is the reference.
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
class DPORecipe(TrainingRecipe):
    model: trl.ModelConfig
    data: DataConfig
    train: trl.DPOConfig
    evaluate: EvaluateConfig | None = None


def main(argv: list[str] | None = None) -> None:
    with stage(DPORecipe, argv) as (recipe, run):
        trainer = build_trainer(recipe, run)
        saved = train(trainer, recipe, run)
        measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model, saved)


@refuses_as_recipe
def build_trainer(recipe: DPORecipe, run: Run) -> trl.DPOTrainer:
    """The `trl.DPOTrainer` of this recipe; the ledger of its rows is noted in `run`."""
    from transformers import set_seed

    from ..data.prepare import over_prepared, prepared_rows
    from ..models.adapters import peft_config
    from ..models.load import load_causal_lm, load_tokenizer
    from ..training.dpo import dpo_trainer

    args = recipe.train
    tokenizer = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision)
    rows = prepared_rows(recipe, tokenizer, prepare_rows, run)
    set_seed(args.seed)  # a new adapter is random, and it is made before upstream sets the seed
    adapter = peft_config(recipe.model)
    # By default, upstream loads the reference by the name in the model's config, in float32 and without the
    # recipe's revision. No copy is needed below an adapter, or where the reference log-probabilities are
    # precomputed: the policy is the reference there.
    needs_copy = adapter is None and not args.precompute_ref_log_probs
    return over_prepared(dpo_trainer(recipe.global_batch_size))(
        model=load_causal_lm(recipe.model, args),
        ref_model=load_causal_lm(recipe.model, args) if needs_copy else None,
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=tokenizer,
        peft_config=adapter,
    )


def prepare_rows(recipe: DPORecipe, tokenizer: PreTrainedTokenizerBase, scratch: Path) -> tuple:
    """(train, held-out, ledger), tokenised as upstream does it; see data/prepare.py."""
    from trl import DPOTrainer

    from ..data.ledger import account_for_replies
    from ..data.prepare import rows_of_trainer
    from ..data.sources import load_data

    columns = ["chosen", "rejected"], ["prompt", "tools"]
    train, held_out, ledger = load_data(recipe.data, *columns, recipe.allow, scratch)
    done = rows_of_trainer(DPOTrainer, recipe.train, tokenizer, train, held_out)
    done = account_for_replies(ledger, recipe, (train, held_out), done, ["chosen_ids", "rejected_ids"])
    return *done, ledger


if __name__ == "__main__":
    main()
