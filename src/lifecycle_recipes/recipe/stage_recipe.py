"""The keys that the recipes of all stages share. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .read import RawRecipe


@dataclass(kw_only=True)
class StageRecipe:
    """gate: conditions on the metrics. allow: code of a finding -> why it is waived. pinned: id -> revision.

    raw: the recipe as it was read, for checks and records; not a key of a recipe.
    """

    gate: list[str] = field(default_factory=list)
    allow: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)
    raw: RawRecipe | None = field(default=None, init=False, repr=False, compare=False)

    def section(self, name: str) -> Any:
        """The section `name`; None if this stage has no such section, or this recipe leaves it out."""
        return getattr(self, name, None)


@dataclass
class EarlyStopping:
    """End training once `patience` evaluations in a row have not improved train.metric_for_best_model.

    threshold: a smaller improvement does not count.
    """

    patience: int
    threshold: float = 0.0


@dataclass(kw_only=True)
class TrainingRecipe(StageRecipe):
    """global_batch_size: rows per optimizer step over all processes; see recipe/batch_size.py."""

    global_batch_size: int | None = None
    early_stopping: EarlyStopping | None = None
