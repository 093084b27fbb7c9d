"""Build a stage's trainer without starting a run, for `lifecycle check` and `lifecycle inspect`.

An upstream error in the build becomes a Refusal, as when a stage builds its trainer.
"""

import errno
import importlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.provenance import Origins
from ...finding import Finding, refuse

# They have no loss, so there is nothing to build.
NO_TRAINER = ("curate", "tokenizer", "evaluate", "export")
# Exceptions with which upstream rejects a recipe.
REJECTIONS = (ValueError, TypeError, NotImplementedError, ImportError, OSError, RuntimeError, KeyError)


@dataclass
class TrialRun:
    """The part of a record.run.Run that `build_trainer` uses, without a record on disk.

    notes: the fields that the stage noted for its record; `data`: the ledger of its rows. origins: the places
    of its training rows.
    """

    notes: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    origins: Origins | None = None

    def note(self, **fields: Any) -> None:
        """Keep `fields` in `notes`."""
        self.notes |= fields

    def report(self, findings: list[Finding]) -> None:
        """Keep `findings`."""
        self.findings += findings


@contextmanager
def built_trainer(
    path: str | Path, overrides: Sequence[str] | None = None
) -> Iterator[tuple[Any, Any, TrialRun]]:
    """Yield (recipe, trainer, run) as the stage of the recipe at `path` builds them, before its first step.

    train.output_dir is a directory that is removed afterwards; nothing is written to the user's directories,
    and nothing is reported or pushed.
    Raises Refusal: what reading the recipe and building raise; no-trainer for a stage without a trainer;
    trainer-refused if upstream rejects the recipe.
    """
    from ...quiet import quiet
    from ...recipe.read import load_recipe, read_recipe
    from ...recipe.schema import recipe_class

    quiet()
    arguments = list(overrides or [])
    stage = read_recipe(path, arguments).stage
    if stage in NO_TRAINER:
        raise refuse(
            "no-trainer", f"the {stage} stage builds no trainer", "check it with --upto 2", str(path)
        )
    # No module imports stages: they are entry points, called here by name, as by a launcher.
    module = importlib.import_module(f"lifecycle_recipes.stages.{stage}")
    recipe = load_recipe(recipe_class(stage), [str(path), *arguments])
    run = TrialRun()
    with tempfile.TemporaryDirectory(prefix="lifecycle-check-") as scratch:
        keep_to_ourselves(recipe.train, scratch)
        with upstream_refusals(str(path)):
            trainer = module.build_trainer(recipe, run)
        yield recipe, trainer, run


def keep_to_ourselves(args, directory: str) -> None:
    """Make the training arguments write to `directory`, without trackers, the Hub or other GPUs."""
    args.output_dir = args.logging_dir = directory
    args.report_to = []
    args.push_to_hub = False  # upstream creates the repository when it builds the trainer
    if getattr(args, "precompute_ref_log_probs", False):
        args.precompute_ref_log_probs = False  # a pass over all rows; the reference is the same without it
    if getattr(args, "n_gpu", 1) > 1:
        # One process on several GPUs would use DataParallel, which no launch of this project uses.
        args._n_gpu = 1


@contextmanager
def upstream_refusals(where: str) -> Iterator[None]:
    """Inside, an exception with which upstream rejects a recipe becomes a Refusal `trainer-refused`.

    Errors of the machine (memory, disk, another process) are not caused by the recipe and are not converted.
    """
    try:
        yield
    except REJECTIONS as error:
        if is_of_the_machine(error):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        raise refuse(
            "trainer-refused",
            f"the trainer cannot be built: {message[:500]}",
            "correct the setting in this error; --debug prints the traceback",
            where,
        ) from error


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory, disk or another process caused the error, not the recipe."""
    import torch

    kinds = (torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistError)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
    return full or isinstance(error, kinds) or "can't allocate memory" in str(error)
