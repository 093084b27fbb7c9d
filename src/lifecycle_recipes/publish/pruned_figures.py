"""What zeros in the weights save: counted and timed on the pruned copies, beside the whole model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.saved import Saved
from .config import MERGED
from .parity import BATCH, load_form
from .pruning import count_zeros

if TYPE_CHECKING:
    from ..record.run import Run

ROUNDS, REPEATS = 2, 3  # turns, in each of which a copy is loaded once and timed REPEATS times
WARM_UP = 4  # tokens, before the clock starts


def measure_pruned(places: dict[str, Path], prompts: list[list[int]], new_tokens: int, run: Run) -> None:
    """Add `pruning` to the record: form -> shares of zeros, seconds of a generation; and `<form>.sparsity`.

    places: directories of the whole model (`merged`) and the pruned copies. prompts: token ids. new_tokens: of every
    reply. Seconds are the shortest of all turns. All copies take turns, so that another load of the machine meets each
    of them; they are loaded for each turn, since memory may hold only one. Seconds are no metric: they differ from run
    to run.
    """
    prompts = prompts[:BATCH]
    pruning: dict[str, Any] = {"replies": len(prompts), "new_tokens": new_tokens}
    for _ in range(ROUNDS):
        for form, directory in places.items():
            saved = load_form(form, directory)
            if form not in pruning:
                pruning[form] = {"zeros": count_zeros(saved.model), "seconds": float("inf")}
            seconds = seconds_to_generate(saved, prompts, new_tokens)
            pruning[form]["seconds"] = min(pruning[form]["seconds"], seconds)
            del saved
    run.note(pruning=pruning)
    run.metrics.update(
        {f"{form}.sparsity": pruning[form]["zeros"]["linear"] for form in places if form != MERGED}
    )


def seconds_to_generate(saved: Saved, prompts: list[list[int]], new_tokens: int) -> float:
    """Of one batch of replies of exactly new_tokens each: else a copy that stops earlier would seem to be faster.

    The shortest of REPEATS.
    """
    from ..evals.replies import generate

    generate(saved, prompts, WARM_UP, min_new_tokens=WARM_UP)
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        generate(saved, prompts, new_tokens, min_new_tokens=new_tokens)
        found.append(time.perf_counter() - start)
    return min(found)
