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

REPEATS = 5


def measure_pruned(places: dict[str, Path], prompts: list[list[int]], new_tokens: int, run: Run) -> None:
    """Add `pruning` to the record: form -> shares of zeros, seconds of a generation; and `<form>.sparsity`.

    places: directories of the whole model (`merged`) and the pruned copies. prompts: token ids. new_tokens: of every
    reply. Seconds are no metric: they differ from run to run.
    """
    pruning: dict[str, Any] = {}
    for form, directory in places.items():
        saved = load_form(form, directory)
        pruning[form] = {
            "zeros": count_zeros(saved.model),
            "seconds": seconds_to_generate(saved, prompts[:BATCH], new_tokens),
        }
        if form != MERGED:
            run.metrics[f"{form}.sparsity"] = pruning[form]["zeros"]["linear"]
        del saved
    run.note(pruning=pruning | {"replies": len(prompts[:BATCH]), "new_tokens": new_tokens})


def seconds_to_generate(saved: Saved, prompts: list[list[int]], new_tokens: int) -> float:
    """Of one batch of replies of exactly new_tokens: the shortest time of REPEATS, after one that is not counted.

    All replies have the same length: a model that stops earlier, or never, would seem to be faster or slower.
    """
    from ..evals.replies import generate

    times = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        generate(saved, prompts, new_tokens, min_new_tokens=new_tokens)
        times.append(time.perf_counter() - start)
    return min(times[1:])
