"""The checkpoints of a run: which are complete, from which one it resumes, which are deleted. No torch."""

import shutil
from pathlib import Path

from ..finding import Finding
from .manifest import MANIFEST, find_damage
from .parents import WEIGHTS


def last_checkpoint(output_dir: Path) -> str | None:
    """The newest checkpoint that can be resumed from."""
    whole = (directory for directory in checkpoints(output_dir) if not checkpoint_lacks(directory))
    return next(map(str, whole), None)


def find_incomplete_checkpoints(output_dir: Path) -> list[Finding]:
    """A warning for each checkpoint newer than the one to resume from, with what it lacks."""
    found, lacking = None, {}
    for directory in checkpoints(output_dir):
        if not (lacks := checkpoint_lacks(directory)):
            found = directory
            break
        lacking[directory] = lacks
    fix = (
        f"the run resumes from {found}"
        if found
        else "no complete checkpoint exists: the run starts from step 0"
    )
    return [
        Finding.warning(
            "checkpoint-incomplete",
            f"this checkpoint is incomplete ({lacks}) and is skipped",
            fix,
            str(directory),
        )
        for directory, lacks in lacking.items()
    ]


def checkpoints(output_dir: Path) -> list[Path]:
    """The directories checkpoint-N, the newest first."""
    steps = [(int(d.name[11:]), d) for d in output_dir.glob("checkpoint-*") if d.name[11:].isdigit()]
    return [directory for _, directory in sorted(steps, reverse=True)]


def checkpoint_lacks(directory: Path) -> str:
    """What a checkpoint lacks for resuming; empty if nothing.

    Its manifest is written after all its files (training/save.py). A checkpoint may be undamaged and hold the
    weights only (train.save_only_model): without optimizer or scheduler state, the Trainer would restart Adam
    silently, and without rng_state the rows and the dropout would differ. DeepSpeed and FSDP keep the
    optimizer state in directories.
    """
    if damage := find_damage(directory):
        return damage
    sharded = any(directory.glob("global_step*")) or any(directory.glob("optimizer_*"))
    if not any(directory.glob("rng_state*.pth")):
        return "no rng_state.pth"
    if sharded:
        return ""
    if not any((directory / name).is_file() for name in ("optimizer.pt", "optimizer.bin")):
        return "no optimizer state"
    if not any(file for pattern in WEIGHTS for file in directory.glob(pattern)):
        return "no weights"
    return "" if (directory / "scheduler.pt").is_file() else "no scheduler.pt"


def clear_incomplete_checkpoints(output_dir: Path) -> None:
    """Take what is not complete out of the count of train.save_total_limit.

    A checkpoint that was never completed, or whose deletion was interrupted, is removed. One that is newer
    than the last complete one and was damaged since is renamed: its weights may still be of use.
    """
    found = last_checkpoint(output_dir)
    for directory in checkpoints(output_dir):
        if not (directory / MANIFEST).is_file():
            shutil.rmtree(directory)
        elif (found is None or directory > Path(found)) and find_damage(directory):
            target = directory.with_name(f"damaged-{directory.name}")
            shutil.rmtree(target, ignore_errors=True)
            directory.rename(target)


def delete_old_checkpoints(output_dir: Path, keep: int | None, protected: list[str | Path]) -> None:
    """Delete all but `keep` checkpoints, the oldest first, but none that is `protected`; keep: None or 0 for all.

    Upstream does this before the manifest of the newest checkpoint is written: a run that is killed then
    would have no complete one. The manifest is deleted first, so that half a directory is never taken for whole.
    """
    if not keep or keep < 0:
        return
    kept = {Path(path).resolve() for path in protected if path}
    oldest_first = checkpoints(output_dir)[::-1]
    surplus = len(oldest_first) - max(keep, len(kept))
    for directory in [d for d in oldest_first if d.resolve() not in kept][: max(surplus, 0)]:
        (directory / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
