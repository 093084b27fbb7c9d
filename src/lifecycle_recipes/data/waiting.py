"""Rank 0 prepares rows; the other processes poll without a time limit, outside the process group.

A barrier of the process group fails after train.ddp_timeout (30 minutes by default), and tokenising may take
longer. So the other processes poll the rendezvous store. The launcher on rank 0's machine holds that store:
if it ends, polling fails, and they end too. A lock file beside the entry is not enough: machines with
separate caches share no lock, and they too must make the same rows and end together.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

from ..finding import FAILED, Finding, Refusal

LONGEST_PAUSE = 1.0  # seconds between two polls
_numbers = itertools.count()  # of a turn; every process takes its turns in the same order


class Turn:
    """Rank 0 goes first, then one process of each other machine, then the rest.

    first: this process is the first on its machine. processes: 1 without a process group.
    """

    def __init__(self):
        group = getattr(sys.modules.get("torch"), "distributed", None)
        alone = group is None or not group.is_available() or not group.is_initialized()
        self.processes = 1 if alone else group.get_world_size()
        rank = 0 if alone else group.get_rank()
        local = 0 if alone else int(os.environ.get("LOCAL_RANK", rank))
        self.main, self.first = rank == 0, local == 0
        number, machine = next(_numbers), rank - local
        self._mine, self._theirs = f"rows-{number}-{machine}", f"rows-{number}-{0 if self.first else machine}"
        self._arrived, self._problem = f"rows-{number}-arrived", f"rows-{number}-problem"

    @contextmanager
    def together(self) -> Iterator[None]:
        """No process leaves the block before all have finished it; if one raises an error, all do.

        Raises Refusal rows-not-prepared (exit status 1) if another process failed or has ended.
        """
        try:
            yield
        except Refusal as refusal:
            self._say({"findings": [asdict(f) for f in refusal.findings], "status": refusal.status})
            raise
        except Exception as error:
            found = not_prepared(f"{type(error).__name__}: {error}")
            self._say({"findings": [asdict(f) for f in found.findings], "status": found.status})
            raise
        if self.processes > 1:
            _store().add(self._arrived, 1)
            self._wait_until(lambda: _store().add(self._arrived, 0) >= self.processes)

    def wait(self) -> dict | None:
        """The message of the process before this one; None on rank 0, which is the first."""
        if self.main:
            return None
        self._wait_until(lambda: _store().check([self._theirs]))
        return json.loads(_store().get(self._theirs))

    def tell(self, word: dict) -> None:
        """Release the processes that wait for this one."""
        if self.first and self.processes > 1:
            _store().set(self._mine, json.dumps(word))

    def _say(self, problem: dict) -> None:
        if self.processes > 1 and not _store().check([self._problem]):
            _store().set(self._problem, json.dumps(problem))

    def _wait_until(self, done: Callable[[], bool]) -> None:
        pause = 0.02
        try:
            while not done():
                if _store().check([self._problem]):
                    problem = json.loads(_store().get(self._problem))
                    raise Refusal(*(Finding(**f) for f in problem["findings"]), status=problem["status"])
                time.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)
        except RuntimeError as error:  # torch.distributed.DistError: the store has ended
            raise not_prepared(str(error)) from error


def not_prepared(cause: str) -> Refusal:
    message = f"the process that prepares the rows failed: {' '.join(cause.split())[:300]}"
    return Refusal(
        Finding.error("rows-not-prepared", message, "see the error message of that process"), status=FAILED
    )


def _store():
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


@contextmanager
def no_barriers() -> Iterator[None]:
    """Inside, accelerate's `main_process_first` does not wait: TRL calls it wherever it prepares rows."""
    from accelerate import PartialState

    theirs = PartialState.main_process_first
    PartialState.main_process_first = lambda self: nullcontext()
    try:
        yield
    finally:
        PartialState.main_process_first = theirs
