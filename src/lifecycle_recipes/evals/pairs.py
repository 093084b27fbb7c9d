"""A saved reward model on held-out pairs of replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer

    from ..models.saved import Saved


def measure_pairs(path: str, trainer: Trainer, reloaded: Saved | None = None) -> dict[str, float]:
    """Metrics of the model saved at `path`, not of the model in memory, on the trainer's held-out pairs.

    reloaded: the saved model, if it is loaded already.
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
