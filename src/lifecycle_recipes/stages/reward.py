"""Train a reward model on preference pairs: the parent's weights and a new reward head with one output.

    accelerate launch -m lifecycle_recipes.stages.reward recipes/desk/05-reward.yaml

Reads  data.sources (columns `chosen`, `rejected`, usually `prompt`), model.model_name_or_path (the parent).
Writes train.output_dir: weights or adapter, each with the reward head, tokenizer, checkpoints, run.json.

Metrics, of the model reloaded from disk on the held-out pairs: pair_accuracy (share in which the chosen reply
scores higher), reward_chosen and reward_rejected (means). train.center_rewards_coefficient keeps rewards
around zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..data.config import DataConfig
from ..evals.pairs import measure_pairs, tokenize_pairs
from ..recipe.stage_recipe import TrainingRecipe
from ..record.run import Run
from ..training.stage import refuses_as_recipe, stage, train

if TYPE_CHECKING:
    from pathlib import Path

    import trl
    from transformers import PreTrainedTokenizerBase


@dataclass
class RewardRecipe(TrainingRecipe):
    model: trl.ModelConfig
    data: DataConfig
    train: trl.RewardConfig


def main(argv: list[str] | None = None) -> None:
    with stage(RewardRecipe, argv) as (recipe, run):
        trainer = build_trainer(recipe, run)
        saved = train(trainer, recipe, run)
        if trainer.eval_dataset is not None and trainer.is_world_process_zero():
            run.metrics.update(measure_pairs(recipe.train.output_dir, trainer, saved))


@refuses_as_recipe
def build_trainer(recipe: RewardRecipe, run: Run) -> trl.RewardTrainer:
    """The `trl.RewardTrainer` of this recipe; the ledger of its rows is noted in `run`."""
    from transformers import set_seed
    from trl import RewardTrainer

    from ..data.prepare import over_prepared, prepared_rows
    from ..models.adapters import peft_config
    from ..models.load import load_reward_model, load_tokenizer, use_template

    args = recipe.train
    tokenizer = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision)
    use_template(tokenizer, args.chat_template_path)
    rows = prepared_rows(recipe, tokenizer, prepare_rows, run)
    set_seed(args.seed)  # the new reward head is random
    return over_prepared(RewardTrainer)(
        model=load_reward_model(recipe.model, args, new_head=True),
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=tokenizer,
        # With this task type, PEFT trains the reward head and saves it beside the adapter.
        peft_config=peft_config(replace(recipe.model, lora_task_type="SEQ_CLS")),
    )


def prepare_rows(recipe: RewardRecipe, tokenizer: PreTrainedTokenizerBase, scratch: Path) -> tuple:
    """(train, held-out, ledger), tokenised; see data/prepare.py."""
    from trl import RewardTrainer

    from ..data.ledger import count_too_long
    from ..data.prepare import rows_of_trainer
    from ..data.sources import load_data

    columns = ["chosen", "rejected"], ["prompt", "tools"]
    train, held_out, ledger = load_data(recipe.data, *columns, recipe.allow, scratch)
    train, held_out = (rows and tokenize_pairs(rows, tokenizer) for rows in (train, held_out))
    done = rows_of_trainer(RewardTrainer, recipe.train, tokenizer, train, held_out)
    count_too_long(ledger, (train, held_out), done)
    return *done, ledger


if __name__ == "__main__":
    main()
