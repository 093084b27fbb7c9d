"""Fine-tune on conversations: the loss covers only the assistant's tokens and its end-of-turn token.

    accelerate launch -m lifecycle_recipes.stages.sft recipes/desk/04-sft.yaml

Reads  data.sources (column `messages`), model.model_name_or_path.
Writes train.output_dir: weights or adapter, tokenizer, checkpoints, run.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.config import DataConfig
from ..evals.config import EvaluateConfig
from ..evals.measure import measure
from ..finding import refuse
from ..recipe.stage_recipe import TrainingRecipe
from ..record.run import Run
from ..training.stage import refuses_as_recipe, stage, train

if TYPE_CHECKING:
    from pathlib import Path

    import trl
    from transformers import PreTrainedTokenizerBase


@dataclass
class SFTRecipe(TrainingRecipe):
    model: trl.ModelConfig
    data: DataConfig
    train: trl.SFTConfig
    evaluate: EvaluateConfig | None = None


def main(argv: list[str] | None = None) -> None:
    with stage(SFTRecipe, argv) as (recipe, run):
        trainer = build_trainer(recipe, run)
        saved = train(trainer, recipe, run)
        measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model, saved)


@refuses_as_recipe
def build_trainer(recipe: SFTRecipe, run: Run) -> trl.SFTTrainer:
    """`assistant_only_loss` is always on: upstream's default trains on the user's turns."""
    from transformers import set_seed
    from trl import SFTTrainer

    from ..data.prepare import over_prepared, prepared_rows
    from ..models.adapters import peft_config
    from ..models.load import load_causal_lm, load_tokenizer, use_template
    from ..models.turn_end import turn_end_token

    args = recipe.train
    args.assistant_only_loss = True
    tokenizer = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision)
    use_template(tokenizer, args.chat_template_path)
    if not tokenizer.chat_template and not args.chat_template_path:
        raise refuse(
            "no-chat-template", "the parent's tokenizer has no chat template", "set train.chat_template_path"
        )
    # The eos of a chat model is its end-of-turn token: generation then stops there for all users.
    args.eos_token = args.eos_token or turn_end_token(tokenizer)
    adapter = peft_config(recipe.model)
    rows = prepared_rows(recipe, tokenizer, prepare_rows, run)
    set_seed(args.seed)
    return over_prepared(SFTTrainer)(
        model=load_causal_lm(recipe.model, args),
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=tokenizer,
        peft_config=adapter,
    )


def prepare_rows(recipe: SFTRecipe, tokenizer: PreTrainedTokenizerBase, scratch: Path) -> tuple:
    """(train, held-out, ledger), tokenised and masked as upstream does it; see data/prepare.py."""
    from trl import SFTTrainer

    from ..data.ledger import account_for_conversations, without_longer
    from ..data.prepare import rows_of_trainer
    from ..data.sources import load_data
    from ..data.turn_weights import keep_out_of_loss

    args, whole = recipe.train, {}

    def before_truncation(rows, template: str | None, name: str):
        rows = keep_out_of_loss(rows, tokenizer, template)
        if recipe.data.truncation == "drop" and loses_tokens(args, name):
            rows = without_longer(ledger, rows, args.max_length, name)
        whole[name] = rows
        return rows

    train, held_out, ledger = load_data(recipe.data, ["messages"], ["tools"], recipe.allow, scratch)
    done = rows_of_trainer(SFTTrainer, args, tokenizer, train, held_out, before_truncation)
    account_for_conversations(ledger, args, tokenizer.eos_token_id, (whole["train"], whole.get("eval")), done)
    return *done, ledger


def loses_tokens(args: trl.SFTConfig, name: str) -> bool:
    """Whether the trainer truncates its train or eval rows; two ways of packing split a row instead."""
    packing = args.packing if name == "train" or args.eval_packing is None else args.eval_packing
    return args.max_length is not None and not (packing and args.packing_strategy != "bfd")


if __name__ == "__main__":
    main()
