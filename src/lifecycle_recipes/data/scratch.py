"""Directories of one process, which a later process removes if that one was killed. No torch."""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from shutil import rmtree
from socket import gethostname

LOCK = "lock"
_held: list[int] = []  # open until this process ends, since closing releases the lock


def scratch_directory(root: str | Path, name: str) -> Path:
    """A new directory below `root`, whose name begins with `name`. Raises OSError.

    Those that killed processes of this machine left behind under any such name are removed first.
    """
    host = gethostname()
    for left in Path(root).glob(f".*~{host}~*"):
        _remove_left(left)
    # It gets its name once it is locked: until then, no other process takes it for one that was left behind.
    place = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
    _held.append(_lock(place))
    return place.rename(place.with_name(f".{name}~{host}~{place.name.rsplit('.', 1)[1]}"))


def _lock(directory: Path) -> int:
    """A handle that holds the lock of a directory. The kernel releases it however the process ends."""
    handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    with contextlib.suppress(OSError):  # without locks, no process removes what another has left behind
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _remove_left(directory: Path) -> None:
    """Remove a directory whose lock nobody holds. Process ids would not do: containers may share a directory."""
    try:
        handle = os.open(directory / LOCK, os.O_RDWR)
    except FileNotFoundError:  # not one of ours, unless NFS kept the file open while the rest was removed
        with contextlib.suppress(OSError):
            directory.rmdir()
        return
    except OSError:  # of another user
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        rmtree(directory, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(handle)
