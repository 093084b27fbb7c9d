"""The benchmark of the stage glue starts, and compares two runs that did the same."""

import re
import subprocess
import sys

import pytest
from repository import ROOT

OVERHEAD = ROOT / "benchmarks/overhead.py"


def overhead(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(OVERHEAD), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_help_shows_an_example():
    done = overhead("--help")
    assert done.returncode == 0 and "python benchmarks/overhead.py --pairs" in done.stdout
    assert overhead("--pairs", "0").returncode == 2


@pytest.mark.slow
def test_a_pair_gives_a_ratio():
    """The benchmark itself ends with an error where bare script and stage reach another training loss."""
    done = overhead("--pairs", "1", "--steps", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "transformers 5" in done.stdout and "cores" in done.stdout
    medians = re.findall(r"^median +([\d.]+) +([\d.]+) +([\d.]+) .*\(1 pairs\)$", done.stdout, re.M)
    assert len(medians) == 3
    for bare, ours, ratio in medians:
        assert float(ratio) == pytest.approx(float(ours) / float(bare), abs=0.01)
