"""Directories of one process, which a later process removes if that one was killed. No torch."""

import tempfile
from pathlib import Path
from shutil import rmtree

from ..record.environment import is_alive, this_process


def scratch_directory(root: str | Path, name: str) -> Path:
    """A new directory below `root`, whose name begins with `name`. Raises OSError.

    Those that killed processes of this machine left behind under any such name are removed first.
    """
    me = this_process()
    for left in Path(root).glob(".*~*~*~*~*"):
        try:
            _, host, pid, started, _ = left.name.rsplit("~", 4)
            process = {"host": host, "pid": int(pid), "started": float(started)}
        except ValueError:  # not one of ours
            continue
        if host == me["host"] and not is_alive(process):
            rmtree(left, ignore_errors=True)
    prefix = f".{name}~{me['host']}~{me['pid']}~{me['started'] or 0}~"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=root))
