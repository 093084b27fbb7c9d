"""Align a model to a reward model with PPO: sampled replies, KL to the parent, a penalty for not stopping.

    accelerate launch -m lifecycle_recipes.stages.ppo recipes/desk/06-ppo.yaml

Reads  data.sources (column `prompt`), model.model_name_or_path (the policy's start and the KL reference),
       reward.model_name_or_path, value.model_name_or_path (without a `value` section: the reward model).
Writes train.output_dir: the policy's weights or adapter, tokenizer, run.json.

Upstream's PPOTrainer cannot resume (an interrupted run starts from the beginning), train a quantised model,
clip gradients, checkpoint activations or evaluate while it trains. A PPO epoch makes num_mini_batches /
gradient_accumulation_steps optimizer steps (at least one), not num_mini_batches.

Metrics: train_kl (nats per reply, mean over the last tenth of the updates); train_score_first and
train_score_last (reward minus penalty, mean over the first and the last tenth).
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
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class PPORecipe(TrainingRecipe):
    model: trl.ModelConfig
    reward: trl.ModelConfig
    data: DataConfig
    train: trl.experimental.ppo.PPOConfig
    value: trl.ModelConfig | None = None
    evaluate: EvaluateConfig | None = None


def main(argv: list[str] | None = None) -> None:
    with stage(PPORecipe, argv) as (recipe, run):
        from ..training.ppo import summarise

        trainer = build_trainer(recipe, run)
        saved = train(trainer, recipe, run)
        run.metrics.update(summarise(trainer.state.log_history))
        measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model, saved)


@refuses_as_recipe
def build_trainer(recipe: PPORecipe, run: Run) -> trl.experimental.ppo.PPOTrainer:
    """The PPOTrainer of this recipe, with its saving repaired; the ledger of its rows is noted in `run`."""
    from transformers import GenerationConfig, set_seed

    from ..data.prepare import prepared_rows
    from ..models.adapters import peft_config
    from ..models.load import load_causal_lm, load_tokenizer
    from ..training.ppo import policy_trainer, set_length
    from ..training.train import end_replies_at

    args = recipe.train
    set_length(args)
    # Upstream shuffles with numpy's global generator, which is seeded nowhere else.
    set_seed(args.seed)
    tokenizer = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision)
    rollout_tokenizer = stop_at_turn_end(
        load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision), args
    )
    policy = load_causal_lm(recipe.model, args)
    end_replies_at(policy, rollout_tokenizer)
    reply_config = policy.generation_config
    # A parent's repetition_penalty, top_p or bad words would change the sampled log-probabilities, but not
    # the reference log-probabilities: the KL would not start at 0.
    policy.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    longest = room(policy, args.response_length)
    rows = prepared_rows(recipe, rollout_tokenizer, prepare_rows, run, longest=longest)
    return policy_trainer(reply_config, tokenizer)(
        args=args,
        processing_class=rollout_tokenizer,
        model=policy,
        ref_model=load_causal_lm(recipe.model, args),
        reward_model=load_scorer(recipe.reward, args, "reward"),
        value_model=load_scorer(recipe.value or recipe.reward, args, "value"),
        train_dataset=rows.train,
        peft_config=peft_config(recipe.model),
    )


def prepare_rows(
    recipe: PPORecipe, tokenizer: PreTrainedTokenizerBase, scratch: Path, longest: int | None
) -> tuple:
    """(prompts, None, ledger), tokenised; see data/prepare.py."""
    from ..data.sources import load_data

    train, _, ledger = load_data(recipe.data, ["prompt"], (), recipe.allow, scratch)
    return tokenize_prompts(train, tokenizer, longest, ledger), None, ledger


def load_scorer(
    model_config: trl.ModelConfig, args: trl.experimental.ppo.PPOConfig, role: str
) -> PreTrainedModel:
    """A reward model. An adapter is merged in a separate directory: `base` belongs to the policy."""
    from copy import copy

    from ..models.load import load_reward_model

    own = copy(args)
    own.output_dir = f"{args.output_dir}/{role}"
    return load_reward_model(model_config, own)


def stop_at_turn_end(
    tokenizer: PreTrainedTokenizerBase, args: trl.experimental.ppo.PPOConfig
) -> PreTrainedTokenizerBase:
    """Prepare `tokenizer` for rollouts: pad on the left, and make its eos the end-of-turn token.

    That token is train.stop_token_id if given, else the one of the chat template. Upstream's
    missing_eos_penalty looks only for the tokenizer's eos.
    """
    from ..models.turn_end import turn_end_token

    if args.stop_token_id is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(args.stop_token_id)
    elif args.stop_token is None and (end := turn_end_token(tokenizer)):
        tokenizer.eos_token = end
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise refuse(
            "pad-is-turn-end",
            f"pad token {tokenizer.pad_token!r} and end-of-turn token {tokenizer.eos_token!r} must differ",
            "set a separate pad token in the tokenizer",
            tokenizer.name_or_path,
        )
    args.stop_token, args.stop_token_id = "eos", None
    tokenizer.padding_side = "left"
    return tokenizer


def room(policy: PreTrainedModel, response_length: int) -> int | None:
    """Tokens of the longest prompt that leaves `response_length` positions; None without a limit."""
    from ..models.config_file import longest_sequence

    positions = longest_sequence(policy.config.get_text_config().to_dict())
    return positions and positions - response_length


def tokenize_prompts(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, longest: int | None, ledger: dict
) -> Dataset:
    """Dataset with `input_ids`, generation prompt included; over-long prompts are left out and counted."""
    from ..data.ledger import count_left_out
    from ..data.provenance import ROW
    from ..models.turn_end import prompt_ids

    def tokenize(row):
        return {"input_ids": prompt_ids(tokenizer, row["prompt"])}

    tokens = rows.map(tokenize, remove_columns=[c for c in rows.column_names if c != ROW])
    kept = tokens if longest is None else tokens.filter(lambda row: len(row["input_ids"]) <= longest)
    if not len(kept):
        raise refuse(
            "prompts-too-long", f"every prompt is longer than {longest} tokens", "lower response_length"
        )
    count_left_out(ledger, f"prompt longer than {longest} tokens", len(tokens) - len(kept))
    return kept


if __name__ == "__main__":
    main()
