"""Run every broken recipe as its second line says, and see that it is named by the code in its first.

    python recipes/broken/run.py [CODE ...]       (make broken)

Prints code, seconds and the message of each; exits 1 where one is not named, named otherwise as well, or
ends with another status. All run in this process, so upstream is imported once and not for every recipe.
"""

import contextlib
import importlib
import io
import logging
import os
import re
import shlex
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The recipes need no network, and two cores are enough.
os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false"}
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # before huggingface_hub reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")

HEAD = re.compile(
    r"# expects: (?P<code>[a-z0-9-]+)(?: \(beside (?P<beside>[a-z0-9, -]+)\))?\n"
    r"# (?P<command>.+?) +\(exit (?P<status>\d)\)\n# (?P<why>.+)\n(?:# cure: (?P<cure>.+))?"
)
# What a machine has that this failure cannot be shown on.
NOT_WITH = {"no-bf16-hardware": "/dev/nvidia0"}
SAID = re.compile(r"^(error|warning) \[([a-z0-9-]+)\] ", re.MULTILINE)


@dataclass
class Broken:
    """One recipe: the code it must be named with, the command that a user types, its exit status.

    beside: codes that may come with it: the same fault, seen from another side. cure: what removes the fault:
    overrides to append to the command (they begin with `--`), a command of this project to run in its place,
    or a shell command that mends a file; empty if no program can.
    """

    code: str
    command: list[str]
    status: int
    why: str
    beside: tuple[str, ...] = ()
    cure: str = ""


@dataclass
class Outcome:
    """What happened: the exit status, everything printed, the codes in it, and how long it took."""

    status: int
    text: str
    codes: list[str]
    seconds: float

    def fault(self, broken: Broken) -> str:
        """What is not as the recipe's head says; empty if nothing."""
        if "Traceback (most recent call last)" in self.text:
            return "a traceback"
        if broken.code not in self.codes or set(self.codes) - {broken.code, *broken.beside}:
            return f"named {', '.join(dict.fromkeys(self.codes)) or 'nothing'}"
        return "" if self.status == broken.status else f"exit {self.status}, not {broken.status}"

    def message(self, code: str) -> str:
        """The first line that names `code`, without its severity."""
        lines = [line for line in self.text.splitlines() if f" [{code}] " in line]
        return lines[0].partition("] ")[2] if lines else ""


def find() -> list[Broken]:
    """Every recipe here in order of its name; raises ValueError for one without a proper head."""
    found = []
    for path in sorted(HERE.glob("*/recipe.yaml")):
        head = HEAD.match(path.read_bytes().decode("utf-8", "replace"))
        if not head:
            raise ValueError(f"{path}: the first lines are not `# expects: CODE`, a command, the reason")
        beside = re.findall("[a-z0-9-]+", head["beside"] or "")
        command, status = shlex.split(head["command"]), int(head["status"])
        cure = head["cure"] or ""
        found.append(Broken(head["code"], command, status, head["why"], tuple(beside), cure))
    return found


def can_be_shown(broken: Broken) -> bool:
    return not os.path.exists(NOT_WITH.get(broken.code, "/nowhere"))


def prepare(root: Path) -> None:
    """Make the parents and the output directories below `root`, where the commands will run."""
    from lifecycle_recipes.quiet import quiet

    quiet()
    # Beside this file, which is no package.
    sys.path.insert(0, str(HERE))
    parents = importlib.import_module("parents")
    with silence():
        parents.build(root)
    parents.prepare_runs(root)


def run(broken: Broken) -> Outcome:
    """Run its command in this process and in the current directory."""
    said, started = io.StringIO(), time.perf_counter()
    status = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), silence():
        try:
            call(broken.command)
        except SystemExit as end:
            status = end.code or 0
        except BaseException:  # a traceback is what no user may see: it is the outcome
            traceback.print_exc()
            status = 1
    text = said.getvalue()
    return Outcome(status, text, [code for _, code in SAID.findall(text)], time.perf_counter() - started)


def cure(broken: Broken) -> Outcome:
    """Do what its cure says, in the current directory, and run its command again; the cure must not be empty."""
    command = broken.command
    if broken.cure.startswith("--"):
        command = command + shlex.split(broken.cure)
    elif broken.cure.startswith(("lifecycle ", "python ")):
        command = shlex.split(broken.cure)
    else:
        subprocess.run(broken.cure, shell=True, check=True)
    return run(replace(broken, command=command))


def call(command: list[str]) -> None:
    """`lifecycle ...` or `python -m MODULE ...` as a call; what it would start is called, too."""
    from lifecycle_recipes import cli
    from lifecycle_recipes.layouts import launch

    if command[0] == "python":
        return importlib.import_module(command[2]).main(command[3:])
    launched = launch.start
    launch.start = start_here
    try:
        cli.main(command[1:])
    finally:
        launch.start = launched


def start_here(command: list[str], layout: object) -> None:
    """In place of `launch.start`: the stage without its launcher."""
    module = command.index("-m")
    importlib.import_module(command[module + 1]).main(command[module + 2 :])


@contextlib.contextmanager
def silence():
    """Undo what a command does to logging and warnings, so that the next one finds them as the first did."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        yield
    logging.disable(level)


def main(wanted: list[str]) -> int:
    os.chdir(ROOT)
    if unknown := sorted(set(wanted) - {broken.code for broken in find()}):
        print(f"error: no broken recipe for {', '.join(unknown)}: see the folders of {HERE}", file=sys.stderr)
        return 2
    prepare(ROOT)
    faults = 0
    for broken in find():
        if (wanted and broken.code not in wanted) or not can_be_shown(broken):
            continue
        outcome = run(broken)
        fault = outcome.fault(broken)
        print(f"{broken.code:28} {outcome.seconds:6.2f} s  {fault and 'WRONG: ' + fault}", flush=True)
        print(f"    {outcome.message(broken.code)}" if not fault else outcome.text, flush=True)
        faults += bool(fault)
    print(f"{faults} not named as they should be" if faults else "every failure is named")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
