"""The exit status of a stage, its last message, and filters for upstream output. No torch."""

import atexit
import contextlib
import functools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from .finding import FAILED, STOPPED, Refusal
from .quiet import quiet
from .redact import redact


class Stopped(KeyboardInterrupt):
    """The run was interrupted by a signal and can be resumed. Upstream catches Exception, so it is none."""


def is_main_process() -> bool:
    """True on rank 0, and if there is only one process."""
    return os.environ.get("RANK") in (None, "0")


@contextlib.contextmanager
def on_signals(handler: Any, *numbers: int) -> Iterator[None]:
    """Handle SIGTERM and SIGINT, or the signals `numbers`, by `handler` inside; has no effect in other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, handler) for n in numbers or (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def stop_on_sigterm() -> contextlib.AbstractContextManager[None]:
    """SIGTERM raises Stopped inside, as SIGINT raises KeyboardInterrupt."""

    def stop(number, frame):
        raise Stopped("by SIGTERM")

    return on_signals(stop, signal.SIGTERM)


def stage_exit(main: Callable | None = None):
    """`with stage_exit():` around a stage's main, or `@stage_exit` above it.

    A Refusal is printed without a traceback (with one under --debug) and exits 2, or with its own status;
    Stopped and Ctrl-C exit 4; any other exception prints its traceback and one line, and exits 1.
    """
    if main is None:
        return _stage_exit()

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        with _stage_exit():
            return main(*args, **kwargs)

    return wrapped


def outlive_closed_output() -> None:
    """Go on without stdout or stderr once its reader has left (`lifecycle run r.yaml | head -1`)."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # not a file: in tests and notebooks
            descriptor = stream.fileno()
            if not hasattr(stream.write, "__wrapped__"):
                stream.write = _unless_closed(stream.write, descriptor)
                stream.flush = _unless_closed(stream.flush, descriptor)


def _unless_closed(call: Callable, descriptor: int) -> Callable:
    @functools.wraps(call)
    def checked(*args):
        try:
            return call(*args)
        except BrokenPipeError:
            # Also for what upstream's C++ and child processes write, and for the flush at exit.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
            return len(args[0]) if args else None

    return checked


@contextlib.contextmanager
def _stage_exit() -> Iterator[None]:
    quiet()
    outlive_closed_output()
    try:
        with stop_on_sigterm():
            yield
    except Refusal as refusal:
        _let_rank_0_speak()
        _end_progress_bars()
        print(redact(str(refusal)), file=sys.stderr)
        _tell_launcher(redact(str(refusal)))
        if "--debug" in sys.argv:
            traceback.print_exc()
        leave(refusal.status)
    except KeyboardInterrupt as stopped:
        leave_interrupted(str(stopped))
    except Exception as error:
        _let_rank_0_speak()
        traceback.print_exc()
        print(redact(f"error: {type(error).__name__}: {error}"), file=sys.stderr)
        leave(FAILED)
    else:
        _leave_process_group()


def _let_rank_0_speak() -> None:
    """Delay other ranks. Ranks mostly fail together: rank 0 then ends first, the launcher ends the rest."""
    if not is_main_process():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(10)


def _tell_launcher(message: str) -> None:
    """Write the message to the file from which torch's launcher prints it, at the end of its report.

    Without the file it prints `<N/A>` (torch/distributed/elastic/multiprocessing/errors). `lifecycle run`
    prints no such report.
    """
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError), open(file, "w", encoding="utf-8") as stream:
            json.dump({"message": message, "timestamp": int(time.time())}, stream)


def signal_in_words(number: int) -> str:
    """`SIGKILL (out of memory?)`: the signal that ended a process, whose exit status is `-number`."""
    name = signal.Signals(number).name
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def leave_interrupted(how: str = "") -> NoReturn:
    """Report that a signal interrupted this process, on rank 0, and end it with status 4."""
    # A second Ctrl-C must not interrupt what libraries do at exit. Registered last, it is called first.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    _end_progress_bars()
    if is_main_process():
        print(f"interrupted{' ' + how if how else ''}; run the same command to resume", file=sys.stderr)
    leave(STOPPED)


def leave(status: int) -> NoReturn:
    """End this process with `status`."""
    sys.stdout.flush()
    # A KeyboardInterrupt inside an exec() of a string (dataclasses use it, so do imports) marks the process to
    # die by SIGINT, even if it is handled later; the next exec() clears the mark (Python/pythonrun.c).
    exec("")
    sys.exit(status)


def _leave_process_group() -> None:
    """torch warns about a leak if a process ends without leaving its group."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _end_progress_bars() -> None:
    """Close running progress bars, so that a message starts on a line of its own."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
