"""What a newcomer has, but for the .venv: the repository's files in a fresh directory, and `make`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# The stages of the desk, in the order of `make lifecycle`; those of `make variants`.
LIFE = ["02-tokenizer", "03-pretrain", "04-sft", "05-reward", "06-ppo", "07-dpo", "08-kto"]
VARIANTS = ["04-sft-lora", "04-sft-qlora", "07-dpo-lora"]

ROOT = Path(__file__).resolve().parents[1]


def clone(target: Path, *parts: str) -> Path:
    """Copy what git would give (all of it, or below `parts`), changes of the working tree included."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *parts]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    (target / "installed").touch()
    return target


def make_command(*targets: str) -> list[str]:
    """`make` that takes the .venv of this test session for installed. PYTHON=false: it never installs."""
    return ["make", f"VENV={sys.prefix}", "INSTALLED=installed", "PYTHON=false", *targets]


def make_environment() -> dict[str, str]:
    """The tests themselves run under `make test`, whose flags must not reach the make under test."""
    ours = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return ours | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def make(directory: Path, *targets: str, timeout: float = 600) -> subprocess.CompletedProcess:
    """Run `make` in a clone and capture what it says."""
    return subprocess.run(
        make_command(*targets),
        cwd=directory,
        env=make_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
