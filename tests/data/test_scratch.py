"""Directories of one process: removed after a kill, and never while the process lives."""

import subprocess
import sys

from lifecycle_recipes.data.scratch import scratch_directory
from lifecycle_recipes.record import environment

HOLD = """
import sys, time
from lifecycle_recipes.data.scratch import scratch_directory
print(scratch_directory(sys.argv[1], "rows"), flush=True)
time.sleep(600)
"""


def test_a_live_process_that_cannot_be_seen_keeps_its_directory(tmp_path, monkeypatch):
    """Containers with one host name may share a directory, and see none of each other's processes."""
    monkeypatch.setattr(environment, "process_started", lambda pid: None)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        held = process.stdout.readline().strip()
        mine = scratch_directory(tmp_path, "rows")
        found = [mine, *tmp_path.iterdir()]
        process.kill()
    assert held in map(str, found) and mine in found[1:]
    last = scratch_directory(tmp_path, "other")
    assert held not in map(str, tmp_path.iterdir()) and mine.is_dir() and last.is_dir()


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    host = environment.this_process()["host"]
    theirs = tmp_path / f".theirs~{host}~7"
    theirs.mkdir()
    (theirs / "file").write_text("x")
    scratch_directory(tmp_path, "rows")
    assert (theirs / "file").is_file()
