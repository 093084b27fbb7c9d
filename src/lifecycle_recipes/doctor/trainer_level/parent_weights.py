"""Level 3: the weights that a run starts from are finite. A parent with a NaN trains nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...finding import Finding
from ...models.non_finite import not_finite
from ...recipe.stage_recipe import StageRecipe
from .forward import language_model
from .step_zero import named_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer


def find_in_parent_weights(trainer: Trainer, recipe: StageRecipe) -> list[Finding]:
    """non-finite for every loaded parent with a NaN or an infinity, with its path and first tensor."""
    models = {"model": language_model(trainer)}
    if hasattr(trainer, "reward_model"):  # PPO
        models |= {"reward": trainer.reward_model, "value": trainer.value_model}
    findings = []
    for role, model in models.items():
        packed = packed_weights(model)
        bad = not_finite((n, p) for n, p in model.named_parameters() if n not in packed)
        path = named_model(recipe, role) or named_model(recipe, "reward" if role == "value" else role)
        if bad:
            more = f", as do {len(bad) - 1} more" if len(bad) > 1 else ""
            message = f"the {role} parent's {bad[0]} holds a NaN or an infinity{more}"
            fix = "give another parent, or train this one again with a lower learning rate"
            findings.append(Finding.error("non-finite", message, fix, path or ""))
    return findings


def packed_weights(model: PreTrainedModel) -> set[str]:
    """Names of 4-bit weights: stored as another type (bnb_4bit_quant_storage), their bits may read as NaN."""
    modules = model.named_modules()
    return {f"{name}.weight" for name, module in modules if type(module).__name__ == "Linear4bit"}
