"""Pairs of replies as a reward model reads them: tokenised, and scored by a saved model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer

    from ..models.saved import Saved


def tokenize_pairs(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Dataset with `chosen_ids` and `rejected_ids`, up to the end-of-turn token. Upstream tokenises plain text."""
    from ..data.provenance import ROW
    from ..models.turn_end import scored_ids, turn_end_id

    if isinstance(rows[0]["chosen"], str):
        return rows
    end = turn_end_id(tokenizer)

    def tokenize(row):
        # A prompt in plain text stands beside conversations that begin with it (UltraFeedback's format).
        prompt = row["prompt"] if isinstance(row.get("prompt"), list) else []
        return {f"{k}_ids": scored_ids(tokenizer, prompt + row[k], end) for k in ("chosen", "rejected")}

    return rows.map(tokenize, remove_columns=[c for c in rows.column_names if c != ROW])


def measure_pairs(path: str, trainer: Trainer, saved: Saved | None = None) -> dict[str, float]:
    """Metrics of the model saved at `path` on the trainer's held-out pairs, not of the one in memory.

    saved: the saved model, if it is already loaded.
    """
    import torch

    from ..models.saved import load_reward

    model = (saved.bring_back() if saved else load_reward(path)).model
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
