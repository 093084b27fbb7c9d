"""Which run may write to an output directory, and from which checkpoint it resumes. No torch."""

import contextlib
import json
import os
import shutil
import time
import zipfile
from pathlib import Path

from ..finding import Finding, Refusal, refuse
from . import environment
from .file import RUN_FILE, read_record
from .parents import WEIGHTS

LOGS = (".log", ".out", ".err")  # what a shell or a scheduler writes beside a run
OURS = (".", "_run.")  # what a run writes before its record, and hidden files


def claim_output_dir(output_dir: Path, identity: str, replace: bool) -> dict | None:
    """Make sure that writing to `output_dir` destroys nothing.

    Returns the record of this same run if it is unfinished, else None. A directory that must not be
    overwritten is refused or, with `replace`, moved to `<output_dir>.replaced-N`.
    """
    earlier = read_record(output_dir) if (output_dir / RUN_FILE).exists() else None
    if earlier and earlier["status"] == "running" and environment.is_alive(earlier.get("process")):
        pid = earlier["process"]["pid"]
        raise refuse(
            "output-dir-busy",
            f"process {pid} is still writing to this directory",
            "wait for it, or stop it",
            str(output_dir),
        )
    if earlier and earlier["status"] != "done" and earlier.get("identity") == identity:
        return earlier
    problem = whose(output_dir, earlier, identity)
    if problem is None:
        return None
    code, message = problem
    if not replace:
        fix = "choose another output_dir, or pass --replace to rename the old directory"
        raise refuse(code, message, fix, str(output_dir))
    move_aside(output_dir)
    return None


def whose(output_dir: Path, earlier: dict | None, identity: str | None) -> tuple[str, str] | None:
    """(code, message) if the directory must not be overwritten, else None. earlier: its record."""
    if earlier and earlier["status"] == "done":
        return "output-dir-finished", "contains a finished run" + _same(earlier, identity)
    patterns = ("checkpoint-*", "tokenizer.json", *WEIGHTS)
    if earlier and any(file for pattern in patterns for file in output_dir.glob(pattern)):
        return "output-dir-other-run", "contains an unfinished run with another recipe, parent or data"
    if not earlier and (foreign := _foreign(output_dir)):
        return "output-dir-not-ours", f"contains files of no run ({foreign}) and no {RUN_FILE}"
    return None


def _foreign(output_dir: Path) -> str:
    """The first files that a run could overwrite; empty if there are none."""
    if not output_dir.is_dir():
        return ""
    names = sorted(file.name for file in output_dir.iterdir())
    names = [name for name in names if not name.startswith(OURS) and not name.endswith(LOGS)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _same(earlier: dict, identity: str) -> str:
    return (
        " of this recipe" if earlier.get("identity") == identity else " with another recipe, parent or data"
    )


def move_aside(output_dir: Path) -> Path:
    number = 1
    while (target := output_dir.with_name(f"{output_dir.name}.replaced-{number}")).exists():
        number += 1
    shutil.move(output_dir, target)
    return target


def last_checkpoint(output_dir: Path) -> str | None:
    """The newest checkpoint that can be resumed from."""
    whole = (directory for directory in _checkpoints(output_dir) if not checkpoint_lacks(directory))
    return next(map(str, whole), None)


def find_incomplete_checkpoints(output_dir: Path) -> list[Finding]:
    """A warning for each checkpoint newer than the one to resume from, with what it lacks."""
    findings = []
    for directory in _checkpoints(output_dir):
        if not (lacks := checkpoint_lacks(directory)):
            break
        message = f"this checkpoint is incomplete ({lacks}) and is skipped"
        found = last_checkpoint(output_dir)
        fix = (
            f"the run resumes from {found}"
            if found
            else "no complete checkpoint exists: the run starts from step 0"
        )
        findings.append(Finding.warning("checkpoint-incomplete", message, fix, str(directory)))
    return findings


def _checkpoints(output_dir: Path) -> list[Path]:
    """The newest first."""
    steps = [(int(d.name[11:]), d) for d in output_dir.glob("checkpoint-*") if d.name[11:].isdigit()]
    return [directory for _, directory in sorted(steps, reverse=True)]


def checkpoint_lacks(directory: Path) -> str:
    """What a Trainer checkpoint lacks for resuming; empty if nothing.

    trainer_state.json is the last file that the Trainer writes. Without optimizer.pt or scheduler.pt, it
    restarts Adam silently; DeepSpeed and FSDP keep the optimizer state in directories.
    """
    state = directory / "trainer_state.json"
    if not state.is_file():
        return "no trainer_state.json"
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except ValueError:  # a full disk leaves it empty
        return "trainer_state.json is truncated"
    optimizers = [directory / "optimizer.pt", directory / "optimizer.bin"]
    sharded = any(directory.glob("global_step*")) or any(directory.glob("optimizer_*"))
    if not sharded:
        if not any(file.is_file() for file in optimizers):
            return "no optimizer state"
        if not any(file for pattern in WEIGHTS for file in directory.glob(pattern)):
            return "no weights"
        if not (directory / "scheduler.pt").is_file():
            return "no scheduler.pt"
    # torch.save writes zip archives, whose table of contents comes last: a truncated one has none.
    saved = [*optimizers, directory / "scheduler.pt", *directory.glob("rng_state*.pth")]
    broken = [f.name for f in saved if f.is_file() and not zipfile.is_zipfile(f)]
    return f"{broken[0]} is truncated" if broken else ""


def wait_for_rank_0(output_dir: Path, seconds: float = 600) -> str | None:
    """On the other ranks: wait until rank 0 of this launch has written its record; return its resume_from.

    A record of an earlier launch is older than this rank's launcher. If rank 0 refuses, it writes nothing,
    and the launcher ends this process.
    """
    launched = environment.process_started(os.getppid()) or time.time() - 60
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Refusal):
            record = read_record(output_dir)
            if record.get("started_unix", 0) >= launched - 1:
                return record.get("resumed_from")
        time.sleep(0.1)
    message = f"rank {os.environ.get('RANK')} found no {RUN_FILE} of this launch within {seconds:.0f} s"
    raise refuse(
        "record-not-seen", message, "put output_dir on a file system shared by all nodes", str(output_dir)
    )
