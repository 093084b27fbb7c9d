"""Level 3: checks that need the built trainer: its rows, its collator, its first forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.provenance import Origins
from ...data.shares import find_in_weights
from ...finding import Finding
from ...recipe.stage_recipe import StageRecipe

if TYPE_CHECKING:
    from transformers import Trainer


def find_in_trainer(trainer: Trainer, recipe: StageRecipe, origins: Origins | None) -> list[Finding]:
    """All findings about a built trainer before its first step. Called on every rank; keeps the random state.

    origins: the places of its training rows, for messages; None for rows that no stage has prepared.
    Forward passes need unsharded weights: they are skipped under ZeRO-3 and on the meta device. Training
    compares the prepared model with its parent's record again, in every layout (training/train.py).
    """
    from .forward import no_trace
    from .loss_mask import find_in_batches
    from .packing_leaks import find_in_packing
    from .parent_weights import find_in_parent_weights
    from .row_lengths import find_beyond_positions
    from .step_count import find_in_steps
    from .step_zero import find_in_chain

    if not len(trainer.train_dataset):
        fix = "see the ledger of left-out rows: filters or length limits removed every row"
        return [Finding.error("no-rows", "no rows are left to train on", fix)]
    if beyond := find_beyond_positions(trainer, origins):
        return beyond  # a forward pass on such a row may end in an index error
    with no_trace(trainer):
        # On every rank, whatever its shard of the weights holds: these may be collective.
        findings = [
            *find_in_weights(origins.sources if origins else []),
            *find_in_steps(trainer, recipe.global_batch_size),
            *find_in_batches(trainer, origins),
            *find_in_packing(trainer),
            *find_in_chain(trainer, recipe),
        ]
    return find_in_parent_weights(trainer, recipe) or findings  # with a NaN, the others only follow from it
