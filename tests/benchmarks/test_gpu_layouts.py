"""The GPU benchmark starts, refuses a machine without a GPU, and fills its table from real runs."""

import os
import subprocess
import sys

import pytest
from repository import ROOT

SCRIPT = ROOT / "benchmarks/gpu_layouts.py"


def benchmark(*arguments: str, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)


def test_help_shows_an_example():
    done = benchmark("--help")
    assert done.returncode == 0 and "python benchmarks/gpu_layouts.py --write" in done.stdout
    assert benchmark("--steps", "0").returncode == 2


def test_without_a_gpu_it_says_so_and_measures_nothing():
    done = benchmark(CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("no GPU")


def test_a_case_that_does_not_exist_is_named():
    done = benchmark("--cpu", "--cases", "fsdp9")
    assert done.returncode == 1 and "no case fsdp9: one of cpu, zero2" in done.stderr


@pytest.mark.slow
def test_a_run_fills_the_table_of_a_page(tmp_path):
    """The smallest run: each case trains, saves and reloads; the text around the table stays."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gpu: start -->\nNot measured.\n<!-- gpu: end -->\nafter\n")
    sizes = ("--cpu", "--shapes", "tiny", "--stages", "sft", "--steps", "4", "--length", "64")
    done = benchmark(*sizes, "--cases", "cpu", "zero2", "--write", str(page))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "Not measured" not in text
    rows = [
        [c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| tiny")
    ]
    assert [row[2] for row in rows] == ["cpu", "zero2"]
    for row in rows:
        peak, speed, loss, reload = row[5:]
        assert float(peak) > 0 and float(speed.replace(",", "")) > 0
        first, last = map(float, loss.split(" -> "))
        assert last < first, "it learns"
        assert float(reload) < 1e-3
    assert "torch 2" in text and "4 steps of 4 rows" in text
