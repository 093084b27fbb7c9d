"""What the forms of an exported model score, and the share of the model's own scores that each keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..finding import FAILED, Finding, Refusal
from .config import ExportConfig
from .parity import load_form

if TYPE_CHECKING:
    from ..evals.config import EvaluateConfig
    from ..record.run import Run

LOWER_IS_BETTER = ("bits_per_byte", "perplexity", "brier_score", "ter")  # as lm-eval has them


def measure_forms(forms: dict[str, Path], config: EvaluateConfig, run: Run) -> None:
    """Add `<form>.<task>.<metric>` and `<form>.recovery` to the metrics, which have those of the model itself."""
    from ..evals.harness import run_tasks
    from ..evals.replies import Replies

    for form, directory in forms.items():
        found = run_tasks(Replies(load_form(form, directory), config.batch_size), config)
        whole = {name: run.metrics[name] for name in found if name in run.metrics}
        run.metrics.update({f"{form}.{name}": value for name, value in found.items()})
        run.metrics[f"{form}.recovery"] = recovery(found, whole)


def recovery(found: dict[str, float], whole: dict[str, float]) -> float:
    """The smallest share of a score that is kept, at most 1; of bits and perplexities, the inverse share.

    A score of 0 cannot be lost and does not count; of a form whose score is not finite, nothing is kept.
    """
    shares = [1.0]
    for name, score in whole.items():
        if not math.isfinite(found[name]):
            return 0.0
        better, other = (score, found[name]) if name.endswith(LOWER_IS_BETTER) else (found[name], score)
        if score and other:
            shares.append(better / other)
    return min(shares)


def require_recovery(forms: dict[str, Path], config: ExportConfig, run: Run) -> None:
    """Raises Refusal recovery-low."""
    findings = []
    for form, directory in forms.items():
        kept = run.metrics[f"{form}.recovery"]
        if kept < config.recovery:
            message = (
                f"{form} keeps {kept:.1%} of a score of the model (export.recovery: {config.recovery:.1%})"
            )
            fix = "leave the form out, choose one with more bits, or lower export.recovery"
            findings.append(Finding.error("recovery-low", message, fix, str(directory)))
    if findings:
        raise Refusal(*findings, status=FAILED)
