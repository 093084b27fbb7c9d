"""One run at a time in an output directory: a lock that its process holds until it ends. No torch."""

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path

from ..finding import refuse
from .environment import this_process

# Upstream does not push files whose names start with an underscore.
LOCK_FILE = "_run.lock"
# Errors of a file system that knows no locks.
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[int] = set()


class OutputDirLock:
    """The lock of a directory, which is created if needed. Raises Refusal output-dir-busy, or OSError.

    The kernel releases it when the process ends, however it ends: no stale lock has to be recognised. Forked
    children do not keep it. On a file system without locks, `claim_output_dir` only has the record.
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / LOCK_FILE
        self.handle = self._take(directory)
        _held.add(self.handle)
        with contextlib.suppress(
            OSError
        ):  # on a full disk, only the message about a busy directory is less exact
            os.ftruncate(self.handle, 0)
            os.write(self.handle, json.dumps(this_process()).encode())

    def _take(self, directory: Path) -> int:
        while True:
            handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(handle)
                os.close(handle)
                message, fix = f"{holder} is still writing to this directory", "wait for it, or stop it"
                raise refuse("output-dir-busy", message, fix, str(directory)) from None
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    os.close(handle)
                    raise
                return handle
            # The holder before may have removed the file, or moved the directory, after it was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(self.file)):
                    return handle
            os.close(handle)

    def release(self, moved_to: Path | None = None) -> None:
        """Remove the file and release the lock. moved_to: where the directory is now."""
        if self.handle not in _held:
            return
        with contextlib.suppress(OSError):
            (moved_to / LOCK_FILE if moved_to else self.file).unlink()
        _held.discard(self.handle)
        os.close(self.handle)


def _holder(handle: int) -> str:
    try:
        process = json.loads(os.pread(handle, 1000, 0))
        return f"process {process['pid']} on {process['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just taken the lock
        return "another process"


def _close_in_child() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
