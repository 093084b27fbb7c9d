"""Train a reward model on preference pairs: the parent's body and a new head with one output.

    accelerate launch -m lifecycle_recipes.stages.reward recipes/desk/05-reward.yaml

Reads  data.sources (columns `chosen`, `rejected`, usually `prompt`), model.model_name_or_path (the parent).
Writes train.output_dir: weights with their head (or an adapter with it), tokenizer, checkpoints, run.json.

Metrics, of the model reloaded from disk on the held-out pairs: pair_accuracy (share in which the chosen reply
scores higher), reward_chosen and reward_rejected (means). train.center_rewards_coefficient keeps rewards
around zero.
"""

from dataclasses import dataclass, field, replace

from ..data.config import DataConfig


@dataclass
class RewardRecipe:
    model: "trl.ModelConfig"  # noqa: F821
    data: DataConfig
    train: "trl.RewardConfig"  # noqa: F821
    global_batch_size: int | None = None
    gate: list[str] = field(default_factory=list)
    allow: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)


def main(argv: list[str] | None = None) -> None:
    from ..doctor.check import check_built, check_recipe, preflight
    from ..doctor.trainer_level.trial_build import upstream_refusals
    from ..recipe.read import load_recipe
    from ..record.run import Run, stage_exit

    with stage_exit():
        recipe = load_recipe(RewardRecipe, argv, check_recipe)
        with Run.start(recipe) as run:
            preflight(recipe, run)
            from ..training.train import train_and_save  # imports torch: a recipe is refused before that

            with upstream_refusals(recipe.raw.path):
                trainer = build_trainer(recipe, run)
            check_built(trainer, recipe, run)
            train_and_save(trainer, recipe, run)
            if trainer.eval_dataset is not None and trainer.is_world_process_zero():
                run.metrics.update(measure_pairs(recipe.train.output_dir, trainer, run.reloaded))


def build_trainer(recipe: RewardRecipe, run):
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
    set_seed(args.seed)  # the new head is random
    return over_prepared(RewardTrainer)(
        model=load_reward_model(recipe.model, args, new_head=True),
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=tokenizer,
        # The task type makes PEFT train and save the head beside the adapter.
        peft_config=peft_config(replace(recipe.model, lora_task_type="SEQ_CLS")),
    )


def prepare_rows(recipe: RewardRecipe, tokenizer, scratch) -> tuple:
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


def tokenize_pairs(rows, tokenizer):
    """Dataset with `chosen_ids` and `rejected_ids`, both up to the turn end. Text is left to upstream."""
    from ..data.provenance import ROW
    from ..models.load import turn_end
    from ..models.turn_end import scored_ids

    if isinstance(rows[0]["chosen"], str):
        return rows
    end = tokenizer.convert_tokens_to_ids(turn_end(tokenizer) or tokenizer.eos_token)

    def tokenize(row):
        # A prompt in plain text stands beside conversations that begin with it (UltraFeedback's format).
        prompt = row["prompt"] if isinstance(row.get("prompt"), list) else []
        return {f"{k}_ids": scored_ids(tokenizer, prompt + row[k], end) for k in ("chosen", "rejected")}

    return rows.map(tokenize, remove_columns=[c for c in rows.column_names if c != ROW])


def measure_pairs(path: str, trainer, reloaded=None) -> dict[str, float]:
    """Metrics of the model saved at `path` on the trainer's held-out pairs: what others load is measured.

    reloaded: that model, where it has been loaded already (an evals.saved.Saved).
    """
    import torch

    from ..models.saved import load_reward

    model = (reloaded.bring_back() if reloaded else load_reward(path)).model
    rewards = {"chosen": [], "rejected": []}
    for batch in trainer.eval_dataset.iter(trainer.args.per_device_eval_batch_size):
        pairs = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        inputs = {k: v.to(model.device) for k, v in trainer.data_collator(pairs).items()}
        with torch.no_grad():
            scores = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        for side, part in zip(rewards, scores.squeeze(-1).float().chunk(2), strict=True):
            rewards[side].append(part.cpu())
    chosen, rejected = (torch.cat(parts) for parts in rewards.values())
    return {
        "pair_accuracy": (chosen > rejected).float().mean().item(),
        "reward_chosen": chosen.mean().item(),
        "reward_rejected": rejected.mean().item(),
    }


if __name__ == "__main__":
    main()
