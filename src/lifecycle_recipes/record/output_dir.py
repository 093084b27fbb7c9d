"""Which run may write to an output directory. No torch."""

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from ..finding import Finding, Refusal, refuse
from . import environment
from .file import EDITS, HELD_OUT, LEDGER_FILE, LEFT_OUT, RUN_FILE, TRAIN, read_record
from .identity import in_short
from .parents import WEIGHTS

# What curation leaves if a test of its data fails, without the data.
FAILED_CURATION = (LEDGER_FILE, LEFT_OUT, EDITS)
LOGS = (".log", ".out", ".err")  # what a shell or a scheduler writes beside a run
OURS = (".", "_run.")  # what a run writes before its record, and hidden files
NO_OBSTACLE = (RUN_FILE, "lost+found", "wandb", "runs")  # of a new disk, and of trackers, which add to them


def claim_output_dir(
    output_dir: Path, identity: str, replace: bool, differences: Callable[[dict], list[str]]
) -> tuple[dict | None, Path | None]:
    """Make sure that writing to `output_dir` destroys nothing. The caller holds its lock.

    Returns (the record of this same run if it is unfinished, else None; where the directory was moved to). A
    directory that must not be overwritten is refused or, with `replace`, moved to `<output_dir>.replaced-N`.
    differences: what differs from the run of a record.
    """
    try:
        earlier = read_record(output_dir) if (output_dir / RUN_FILE).exists() else None
    except Refusal as refusal:
        if not replace:
            problem = refusal.findings[0]
            fix = "pass --replace to rename the directory"
            raise refuse(problem.code, problem.message, fix, problem.where) from None
        return None, move_aside(output_dir)
    # The lock has the last word, except on a file system without locks.
    if busy := find_busy(earlier, output_dir):
        raise Refusal(*busy)
    if earlier and earlier["status"] != "done" and earlier.get("identity") == identity:
        return earlier, None
    differ = differences(earlier) if earlier else []
    problem = whose(output_dir, earlier, differ)
    if problem is None:
        return None, None
    code, message = problem
    if not replace:
        raise refuse(code, message, way_out(differ), str(output_dir))
    return None, move_aside(output_dir)


def find_busy(earlier: dict | None, output_dir: Path) -> list[Finding]:
    """output-dir-busy: the process of the record still runs on this machine."""
    if not earlier or earlier["status"] != "running" or not environment.is_alive(earlier.get("process")):
        return []
    message = f"process {earlier['process']['pid']} is still writing to this directory"
    return [Finding.error("output-dir-busy", message, "wait for it, or stop it", str(output_dir))]


def way_out(differences: list[str]) -> str:
    """The fix for a directory that must not be overwritten. differences: from its run."""
    if differences and all(difference.startswith("evaluate.") for difference in differences):
        return "measure that run with an evaluate recipe, or pass --replace to rename it and train again"
    return "choose another output_dir, or pass --replace to rename the old directory"


def whose(output_dir: Path, earlier: dict | None, differences: list[str]) -> tuple[str, str] | None:
    """(code, message) if the directory must not be overwritten, else None.

    earlier: its record. differences: from that run, for the message (record/identity.py).
    """
    patterns = ("checkpoint-*", "tokenizer.json", *WEIGHTS)
    kept = [file for pattern in patterns for file in output_dir.glob(pattern)]
    if earlier and earlier["status"] == "done":
        other = f"another run, which is finished: {in_short(differences)}"
        return "output-dir-finished", "contains " + (
            other if differences else "the finished run of this recipe"
        )
    if kept and earlier:
        return "output-dir-other-run", f"contains another run, which is unfinished: {in_short(differences)}"
    # A run that was refused has written its record alone: what else is there is not its own.
    if (not earlier or earlier.get("refused")) and (foreign := _foreign(output_dir)):
        record = "that of a run that was refused" if earlier else f"no {RUN_FILE}"
        return "output-dir-not-ours", f"contains files of no run ({foreign}), and {record}"
    return None


def find_other_host(earlier: dict | None, output_dir: Path) -> list[Finding]:
    """output-dir-other-host: the record is of a run that was not ended, on a machine that cannot be asked."""
    process = (earlier or {}).get("process") or {}
    if not earlier or earlier["status"] != "running" or process.get("host") == socket.gethostname():
        return []
    message = f"{RUN_FILE} says that process {process.get('pid')} on {process.get('host')} is writing to this directory"
    fix = "make sure that it has ended: two runs would overwrite each other's files"
    return [Finding.warning("output-dir-other-host", message, fix, str(output_dir))]


def _foreign(output_dir: Path) -> str:
    """The first files that a run could overwrite; empty if there are none."""
    if not output_dir.is_dir():
        return ""
    files = [file for file in output_dir.iterdir() if file.name not in NO_OBSTACLE]
    names = sorted(file.name for file in files if not (file.is_dir() and not any(file.iterdir())))
    names = [name for name in names if not name.startswith(OURS) and not name.endswith(LOGS)]
    if LEDGER_FILE in names and not {TRAIN, HELD_OUT} & set(names):
        names = [name for name in names if name not in FAILED_CURATION]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def move_aside(output_dir: Path) -> Path:
    """Rename a directory, or the one that a link points to, to `<name>.replaced-N`; return the new path.

    A link is kept, and points to a new directory.
    """
    real, number = output_dir.resolve(), 1
    while (target := real.with_name(f"{real.name}.replaced-{number}")).exists():
        number += 1
    shutil.move(real, target)
    if output_dir.is_symlink():
        real.mkdir()
    return target


def wait_for_rank_0(output_dir: Path, seconds: float = 600) -> dict:
    """On the other ranks: wait until rank 0 of this launch has written its record; return the record.

    A record of an earlier launch is older than this rank's launcher. If rank 0 refuses, it writes nothing,
    and the launcher ends this process.
    """
    launched = environment.process_started(os.getppid()) or time.time() - 60
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Refusal):
            record = read_record(output_dir)
            if record.get("started_unix", 0) >= launched - 1:
                return record
        time.sleep(0.1)
    message = f"rank {os.environ.get('RANK')} found no {RUN_FILE} of this launch within {seconds:.0f} s"
    raise refuse(
        "record-not-seen", message, "put output_dir on a file system shared by all nodes", str(output_dir)
    )
