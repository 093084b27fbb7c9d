"""Launch a stage with a layout, for `lifecycle run`. The caller needs no torch.

`accelerate launch` loses a stage's exit status (it becomes 1), prints a traceback of its own below a
refusal, and ends at a SIGTERM without forwarding it to the stage. So `lifecycle run` prints an
`accelerate launch` line, and `main` here runs it with accelerate's own parser and launchers, but forwards
exit statuses and signals. A single process is not started: the stage runs in the launcher's process, or replaces
it where that must start with other variables.
"""

import contextlib
import logging
import os
import runpy
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from ..exit_status import leave_interrupted, signal_in_words
from ..finding import FAILED, STOPPED, refuse
from ..quick_imports import quick_imports
from ..quiet import quiet
from .asked import hand_on
from .layout import Layout, find_layout

# These stages run in one process, without an optimizer and without a layout.
UNLAUNCHED = ("curate", "tokenizer", "evaluate", "export")


def stage_command(
    stage: str,
    recipe: str,
    layout: str | None,
    rest: list[str],
    processes: int | None = None,
    cpu: bool = False,
) -> list[str]:
    """The command line of a stage, starting with `python` or `accelerate`, as a user would type it.

    processes: overrides the number in the layout. cpu: hide the GPUs; nothing else changes in the layout.
    """
    module = ["-m", f"lifecycle_recipes.stages.{stage}", recipe, *rest]
    if stage in UNLAUNCHED:
        return ["python", *module]
    flags = ["--num_processes", str(processes)] if processes else []
    flags += ["--gpu_ids", "all"] if cpu else []  # a list of ids in the file would make them visible again
    command = ["accelerate", "launch", "--quiet", "--config_file", str(find_layout(layout)), *flags, *module]
    return ["CUDA_VISIBLE_DEVICES=", *command] if cpu else command


def require_one_machine(layout: Layout) -> None:
    """Raises Refusal layout-machines: one command cannot start processes on other machines."""
    if layout.machines > 1:
        message = f"{layout} needs {layout.machines} machines, but this command starts only one"
        fix = "use slurm/train.sbatch, or run accelerate launch on each machine (docs/layouts.md)"
        raise refuse("layout-machines", message, fix)


def start(command: list[str], layout: Layout) -> None:
    """Print the command and replace this process with it; does not return. layout: what the command requests."""
    print("+ " + shlex.join(command), flush=True)
    quiet()  # its variables must be set before the imports of the stage
    set_thread_variables(layout)
    if command[0].endswith("="):
        os.environ[command[0].removesuffix("=")] = ""
        command = command[1:]
    arguments = (
        command[1:] if command[0] == "python" else ["-m", "lifecycle_recipes.layouts.launch", *command[2:]]
    )
    os.execv(sys.executable, [sys.executable, *arguments])


def set_thread_variables(layout: Layout) -> None:
    """Set what accelerate will set for one process on the CPU, so that `become` has nothing left to change.

    As accelerate/commands/launch.py and utils/launch.py do. If they ever differ, the stage is started as a
    process of its own, which takes a second longer.
    """
    if layout.kind == "single" and layout.processes == 1 and layout.cpu:
        import psutil

        os.environ |= {"KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1"}
        os.environ.setdefault("OMP_NUM_THREADS", str(psutil.cpu_count(logical=False) or 1))


def main(argv: list[str] | None = None) -> None:
    """`accelerate launch` with the exit status of the stage."""
    # torch's launcher logs each failed worker after the worker's own message, and also raises an exception.
    logging.disable(logging.ERROR)
    # torch's launcher would handle signals and end the workers after 30 s: a checkpoint may need longer.
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGHUP"
    try:
        launch_workers(argv)
    except KeyboardInterrupt:  # before a worker was started
        leave_interrupted()


def launch_workers(argv: list[str] | None) -> NoReturn:
    with quick_imports():
        from accelerate.commands import launch

    # If its port is in use, accelerate finds another one and warns.
    warnings.filterwarnings("ignore", message="Port .* is already in use")
    launch.multi_gpu_launcher = on_cpu_if_asked(launch.multi_gpu_launcher)
    args = launch.launch_command_parser().parse_args(argv)
    hand_on(args)
    with _signals_handed_on() as handed_on:
        launch.simple_launcher = partial(become, handed_on)
        sys.exit(run_workers(launch.launch_command, args, handed_on))


def become(handed_on: Sequence[int], args) -> None:
    """accelerate's simple_launcher without a child process: the stage runs here, or by exec.

    torch was imported here already, which takes a second. It and CUDA read their variables when they start, so the
    stage may run here only if accelerate changes none but its own.
    handed_on: signals received so far. There was no worker yet: they are for this process.
    """
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    command, environment = prepare_simple_launcher_cmd_env(args)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if handed_on:
        raise KeyboardInterrupt
    changed = {name for name, value in environment.items() if os.environ.get(name) != value}
    if not args.module or any(not name.startswith("ACCELERATE_") for name in changed):
        os.execvpe(command[0], command, environment)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.disable(logging.NOTSET)
    os.environ |= environment
    sys.argv = [args.training_script, *args.training_script_args]
    runpy.run_module(args.training_script, run_name="__main__", alter_sys=True)
    sys.exit()


def on_cpu_if_asked(launcher: Callable) -> Callable:
    """accelerate's multi_gpu_launcher with `use_cpu`, which only accelerate's simple_launcher passes on."""

    def launch(args):
        if args.use_cpu:
            os.environ["ACCELERATE_USE_CPU"] = "true"
        launcher(args)

    return launch


def run_workers(launch_command, args, handed_on: Sequence[int] = ()) -> int:
    """Run a distributed launch to its end. Returns the status of the worker that failed first, or 0.

    handed_on: the signals that the workers were sent so far.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(args)
    except ChildFailedError as error:
        # A worker that was still importing when the signal arrived had no handler for it yet.
        if handed_on and all(
            f.exitcode in (STOPPED, -signal.SIGTERM, -signal.SIGINT) for f in error.failures.values()
        ):
            return STOPPED
        # A SIGTERM that the launcher sent to the other workers may be listed first. A worker's own
        # exit status is the better cause.
        spoken = [item for item in error.failures.items() if item[1].exitcode > 0]
        rank, failure = spoken[0] if len(spoken) == 1 else error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: rank {rank} was killed by {signal_in_words(-failure.exitcode)}", file=sys.stderr)
            return FAILED
        return failure.exitcode
    return 0


@contextlib.contextmanager
def _signals_handed_on():
    """Forward SIGTERM and Ctrl-C to the workers, both as SIGTERM.

    torch starts each worker in a session of its own, which the terminal's Ctrl-C does not reach
    (torch/distributed/elastic/multiprocessing/subprocess_handler).
    Yields the list of both signals that were received so far.
    """
    handed_on: list[int] = []

    def hand_on(number, frame):
        handed_on.append(number)
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield handed_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
