"""`lifecycle run DIRECTORY`: check all stages, then run stage, gate, stage, ... each as a process. No torch."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from ..exit_status import on_signals, signal_in_words
from ..finding import DONE, FAILED, GATE_FAILED, REFUSED, STOPPED
from ..layouts.launch import UNLAUNCHED, require_one_machine
from ..layouts.layout import Layout
from ..recipe.read import RawRecipe
from ..record.file import GATE_FILE
from ..record.run import is_done
from ..report.card import card
from .check import print_findings
from .graph import Stage, read_life
from .plan import Selection, check_stages, find_states, passes, select, show

LIFECYCLE = [sys.executable, "-m", "lifecycle_recipes.cli"]
ENDS = {REFUSED: "was refused", GATE_FAILED: "failed its gate", STOPPED: "was interrupted"}


def run_life(
    places: list[str],
    arguments: list[str],
    chosen: Selection,
    read_layout: Callable[[RawRecipe], Layout | None],
    launch: list[str],
    dry_run: bool,
    keep_going: bool,
    command: str,
) -> int:
    """Run the selected stages of the recipes at `places`; returns the exit status of the first one that failed.

    arguments: overrides and flags. launch: the flags of the layout, for each stage. keep_going: after a failure,
    run what does not need the failed stage. command: what the user types to go on.
    """
    stages = select(read_life(places, arguments), chosen)
    for stage in stages:
        stage.raw.layout = read_layout(stage.raw)
        if stage.raw.stage not in UNLAUNCHED:
            require_one_machine(stage.raw.layout)
    states = find_states(stages)
    reports = check_stages(stages, states, rows=not dry_run)
    print_findings(reports)
    print(show(stages, states), flush=True)
    if any(report.errors for report in reports):
        print("nothing was started: correct the errors above first", file=sys.stderr)
        return REFUSED
    if dry_run:
        print("nothing was started (--dry-run); the rows are checked before the first stage starts")
        return DONE
    return run_stages(stages, launch, keep_going, command)


def run_stages(stages: list[Stage], launch: list[str], keep_going: bool, command: str) -> int:
    """Run what is not done, in order, and print the card, or what remains. Returns the exit status."""
    ended: dict[str, int] = {}
    with processes() as run:
        for number, stage in enumerate(stages, 1):
            if any(ended.get(parent, DONE) != DONE for parent in stage.parents):
                ended[stage.name] = FAILED  # its own children do not run either
                continue
            print(f"\n== {number} of {len(stages)}: {stage.name}", flush=True)
            ended[stage.name] = run_stage(stage, launch, run)
            if ended[stage.name] == STOPPED or (ended[stage.name] != DONE and not keep_going):
                break
    status = next((status for status in ended.values() if status != DONE), DONE)
    if status == DONE:
        print(f"\n{card([str(stage.raw.output_dir) for stage in stages])}")
    else:
        print(what_remains(stages, ended, command), file=sys.stderr)
    return STOPPED if STOPPED in ended.values() else status


def run_stage(stage: Stage, launch: list[str], run: Callable[[list[str]], int]) -> int:
    """`lifecycle run` and `lifecycle gate` of one stage, what is done left out. Returns the exit status."""
    if is_done(stage.raw):
        print(f"{stage.raw.output_dir}: already finished", flush=True)
        if os.path.exists(os.path.join(stage.raw.output_dir, GATE_FILE)) and passes(stage):
            return DONE
    elif status := run([*LIFECYCLE, "run", stage.path, *launch, *stage.arguments]):
        return status
    return run([*LIFECYCLE, "gate", stage.path, *stage.arguments])


def what_remains(stages: list[Stage], ended: dict[str, int], command: str) -> str:
    """Which stage ended the life and how, what is done, what remains, and the command to go on."""
    first = next(name for name, status in ended.items() if status != DONE)
    done = [stage.name for stage in stages if ended.get(stage.name) == DONE]
    remain = [stage.name for stage in stages if stage.name not in done]
    how = ENDS.get(ended[first], "failed")
    before = ""
    if ended[first] == GATE_FAILED:
        before = "change its gate lines, or its recipe (with --replace), then "
    elif ended[first] != STOPPED:
        before = "correct it, then "
    lines = [f"\n{first} {how} (exit status {ended[first]})"]
    lines += [f"    done: {', '.join(done) or '-'}", f"    remaining: {', '.join(remain)}"]
    return "\n".join([*lines, f"    to go on: {before}{command}"])


@contextlib.contextmanager
def processes() -> Iterator[Callable[[list[str]], int]]:
    """Yields a function that runs a command and returns its exit status, 4 once a signal has arrived.

    SIGTERM is forwarded to the running command. Ctrl-C is not: the terminal sends it to the command as well.
    """
    received: list[int] = []
    running: list[subprocess.Popen] = []

    def hand_on(number, frame):
        received.append(number)
        if number == signal.SIGTERM and received.count(number) == 1:
            for process in running:
                process.send_signal(number)

    def run(command: list[str]) -> int:
        if received:
            return STOPPED
        running[:] = [subprocess.Popen(command)]
        if signal.SIGTERM in received:  # it arrived while the process was being started
            running[0].send_signal(signal.SIGTERM)
        status = running[0].wait()
        if received:
            return STOPPED
        if status < 0:
            killed = f"{shlex.join(command[3:5])} was killed by {signal_in_words(-status)}"
            print(f"error: {killed}", file=sys.stderr)
            return FAILED
        return status

    with on_signals(hand_on):
        yield run


def as_typed(argv: list[str]) -> str:
    """The command line of this process."""
    return shlex.join(["lifecycle", *argv])
