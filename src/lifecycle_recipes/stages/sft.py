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
    """(train, held-out, ledger), tokenised and masked as upstream does it; see data/conversations.py."""
    from trl import SFTTrainer

    from ..data.conversations import prepare_conversations
    from ..data.sources import load_data

    train, held_out, ledger = load_data(recipe.data, ["messages"], ["tools"], recipe.allow, scratch)
    drop = recipe.data.truncation == "drop"
    done = prepare_conversations(SFTTrainer, recipe.train, tokenizer, (train, held_out), ledger, drop)
    return *done, ledger


if __name__ == "__main__":
    main()
