"""The environment of a run: versions, hardware, commit, memory. Imports no torch, but uses it if loaded."""

import importlib.metadata
import os
import platform
import re
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = [
    "lifecycle-recipes",
    *("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers"),
    *("deepspeed", "bitsandbytes", "lm_eval"),
]


def versions() -> dict[str, str]:
    """Installed versions by package name, Python included."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict:
    """host, machine, cpu (model), cores (usable by this process), memory_gb and gpus (names)."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        memory = None
    return {
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory, 1) if memory else None,
        "gpus": _gpus(),
    }


def _cpu_model() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def _gpus() -> list[str]:
    """GPU names: from torch if it is loaded (it honours CUDA_VISIBLE_DEVICES), else the NVIDIA driver."""
    if cuda := _cuda():
        return [cuda.get_device_name(i) for i in range(cuda.device_count())]
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"Model:\s*(.+)", file.read_text())
        names.append(found[1].strip() if found else "NVIDIA GPU")
    return names


def _cuda():
    """torch.cuda, only where torch is already imported and CUDA works."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_available() else None


def peak_memory() -> dict[str, float]:
    """peak_memory_gb: highest resident host memory of this process so far; peak_gpu_memory_gb: of its GPU."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
    peaks = {"peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if cuda := _cuda():
        peaks["peak_gpu_memory_gb"] = cuda.max_memory_allocated() / 1e9
    return peaks


def git_commit() -> str | None:
    """Commit of the running code, `-dirty` if tracked files differ; of the CWD if the code is installed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    for place in (Path(__file__).parent, Path.cwd()):
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode == 0:
            return done.stdout.strip()
    return None


def process_started(pid: int) -> float | None:
    """Unix time at which a process of this machine started (to 10 ms); None if it does not exist."""
    try:
        # The command name, in brackets, may hold spaces: count the fields after it (man 5 proc).
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        boot = re.search(r"btime (\d+)", Path("/proc/stat").read_text())
    except (OSError, IndexError, ValueError):
        return None
    return int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot else None


def startup_seconds() -> float:
    """Time for the imports of this stage: the age of its process; 0 in other processes."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = process_started(os.getpid())
    of_a_stage = spec is not None and spec.name.startswith("lifecycle_recipes.stages.")
    return max(0.0, time.time() - started) if of_a_stage and started else 0.0


def this_process() -> dict:
    """A unique identity of this process, even if its id is reused: host, pid, started (Unix time)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": process_started(os.getpid())}


def is_alive(process: dict | None) -> bool:
    """True if `process` (a value of `this_process`) runs on this machine now."""
    if not process or process.get("host") != socket.gethostname():
        return False
    started = process_started(process.get("pid", -1))
    return started is not None and abs(started - (process.get("started") or 0)) < 2
