"""Where the shards are scored: by the processes of this machine, by Ray or by Slurm.

Ray and Slurm run through datatrove's executors (extra `scale`), as a pipeline of one step. Every process reads the
plan and the data from a file system that all of them share, and writes the scores there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..exit_status import Stopped, signal_in_words
from ..finding import FAILED, Finding, Refusal, refuse
from ..quiet import quiet
from .progress import progress

if TYPE_CHECKING:
    from datatrove.executor.base import PipelineExecutor
    from tqdm import tqdm

INSTALL = "pip install 'lifecycle-recipes[scale]'"
# Shards that one task of Ray or Slurm scores: about 130,000 documents, some minutes, against seconds to start.
SHARDS_PER_TASK = 64
LOOK_EVERY = 1.0  # seconds between two looks at what Ray has finished
# The processes share the cores; each one's libraries would start a thread per core.
ONE_THREAD = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# score_shards(plan_file, indices): scores the shards of a plan and writes each result atomically; skips what is
# there. A function of a module, so that another process finds it.
ScoreShards = Callable[[str, Sequence[int]], None]


@dataclass
class Executor:
    """The processes that score the documents. The scores, and the output, are the same with all of them.

    kind: `local` for the cores of this machine; `ray` for a Ray cluster, or Ray on this machine; `slurm` to submit
    an array of jobs: the command then ends, and the same command continues when they are done.
    workers: processes or tasks at once; null: the cores of this machine, or for Ray and Slurm no limit.
    tasks: into how many tasks Ray and Slurm divide the shards; null: one for every 64 shards.
    cpus_per_task, mem_per_cpu_gb: what Ray and Slurm reserve for a task, which runs on one core; more cores are
    only a way to more memory. Source: datatrove (executor/slurm.py), whose defaults are 1 and 2.
    partition, time: of Slurm, such as `cpu` and "04:00:00" (in quotes); both are required for it.
    sbatch: further options of sbatch, without dashes, such as {account: mine, qos: low}.
    env_command: shell commands before a Slurm task, such as `module load python`.
    ray_address: of the Ray cluster, such as `ray://head:10001`; null: RAY_ADDRESS, else the Ray that runs on this
    machine, else a new one.
    """

    kind: Literal["local", "ray", "slurm"] = "local"
    workers: int | None = None
    tasks: int | None = None
    cpus_per_task: int = 1
    mem_per_cpu_gb: int = 2
    partition: str | None = None
    time: str | None = None
    sbatch: dict[str, str] = field(default_factory=dict)
    env_command: str | None = None
    ray_address: str | None = None


_SLURM_KEYS = ("partition", "time", "sbatch", "env_command")
_UNUSED = {
    "local": ("tasks", "cpus_per_task", "mem_per_cpu_gb", *_SLURM_KEYS, "ray_address"),
    "ray": _SLURM_KEYS,
    "slurm": ("ray_address",),
}


def find_in_settings(settings: Executor, where: str) -> list[Finding]:
    """no-effect, missing-key, missing-package."""
    defaults, findings = Executor(), []
    for key in (f.name for f in fields(Executor)):
        if key in _UNUSED[settings.kind] and getattr(settings, key) != getattr(defaults, key):
            message = f"executor.{key} has no effect with `kind: {settings.kind}`"
            findings.append(Finding.error("no-effect", message, "remove it", where))
    for key in ("partition", "time") if settings.kind == "slurm" else ():
        if not getattr(settings, key):
            message = f"executor.{key} is missing, which Slurm requires"
            findings.append(Finding.error("missing-key", message, f"set executor.{key}", where))
    if missing := _missing_packages(settings.kind):
        message = f"`kind: {settings.kind}` needs {' and '.join(missing)}, which is not installed"
        findings.append(Finding.error("missing-package", message, INSTALL, where))
    return findings


def _missing_packages(kind: str) -> list[str]:
    needed = {"local": [], "ray": ["datatrove", "ray"], "slurm": ["datatrove"]}[kind]
    return [name for name in needed if importlib.util.find_spec(name) is None]


def run(plan_file: str, count: int, executor: Executor, score_shards: ScoreShards, what: str) -> None:
    """Score the shards 0 to count - 1 of a plan. To be called only if scores are missing.

    what: what the bar names, such as `scoring`. Ray and Slurm keep what is done in a directory beside the
    plan, named by its content; a task that is done is not started again, and a changed plan starts anew.
    Raises Refusal worker-killed, missing-package, no-slurm, submit-failed, scoring-failed; what score_shards
    raises; Stopped after submitting to Slurm.
    """
    if count < 1:
        return
    if missing := _missing_packages(executor.kind):
        raise refuse("missing-package", f"{' and '.join(missing)} is not installed", INSTALL)
    plan_file = os.path.abspath(plan_file)
    if executor.kind == "local":
        workers = min(executor.workers or _cores(), count)
        with progress(what, count, " shards") as bar:
            if workers == 1:
                for index in range(count):
                    score_shards(plan_file, [index])
                    bar.update()
            else:
                _run_pool(plan_file, range(count), workers, score_shards, bar)
    elif executor.kind == "ray":
        _run_ray(plan_file, count, executor, score_shards, what)
    else:
        _run_slurm(plan_file, count, executor, score_shards)


# On this machine


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_pool(
    plan_file: str, indices: Sequence[int], workers: int, score_shards: ScoreShards, bar: tqdm
) -> None:
    # spawn: a fork of a process with threads, which torch and Arrow start, can hang.
    context, before = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    children: set[Any] = set()
    tasks: list[Future] = []
    try:
        # The workers start here, and inherit the mask: Ctrl-C is for this process, which ends them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for index in indices:
                tasks.append(pool.submit(_score_one, score_shards, plan_file, index))
                if len(children) < workers:
                    children |= set(multiprocessing.active_children()) - before
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _wait_for(tasks, bar)
    except BrokenProcessPool as broken:
        pool.shutdown(wait=True)  # until their exit codes are known
        raise _worker_killed([child.exitcode for child in children]) from broken
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()  # what it was writing has another name still, and is not read
        # Until the pool's thread has ended: CPython wakes it on exit through a pipe that it may just close.
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _wait_for(tasks: list[Future], bar: tqdm) -> None:
    for task in as_completed(tasks):
        if refused := task.result():
            findings, status = refused
            raise Refusal(*findings, status=status)
        bar.update()


def _start_worker() -> None:
    quiet()
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next task for ever: it holds both ends of the queue."""
    multiprocessing.parent_process().join()
    os._exit(FAILED)


def _score_one(score_shards: ScoreShards, plan_file: str, index: int) -> tuple[list[Finding], int] | None:
    """In a worker. A Refusal is returned in parts: pickled as an exception, it would lose its findings."""
    try:
        score_shards(plan_file, [index])
    except Refusal as refusal:
        return refusal.findings, refusal.status
    return None


def _worker_killed(codes: list[int | None]) -> Refusal:
    """codes: of all workers. Those that outlive the first are ended by SIGTERM (concurrent/futures/process.py)."""
    by_itself = [code for code in codes if code not in (0, None, -signal.SIGTERM)]
    code = by_itself[0] if by_itself else -signal.SIGTERM
    how = f"was ended by {signal_in_words(-code)}" if code < 0 else f"ended with status {code}"
    fix = "run the same command again: it continues"
    if code == -signal.SIGKILL:
        fix += "; if memory was short, set executor.workers to a smaller number"
    return refuse("worker-killed", f"a worker process {how}", fix, status=FAILED)


# Through datatrove


def _score_share(
    data: None, rank: int, world_size: int, *, plan_file: str, count: int, score_shards: ScoreShards
) -> None:
    """The only step of datatrove's pipeline: every world_size-th shard, from `rank`.

    In a process of its own. If memory is short, the kernel kills that one, and the task fails; datatrove's Ray
    executor would wait for ever for a task that is killed itself (multiprocess.Pool starts another process).
    """
    quiet()
    indices = range(rank, count, world_size)
    with progress(f"task {rank}", len(indices), " shards") as bar:
        _run_pool(plan_file, indices, 1, score_shards, bar)


def _directory(plan_file: str, count: int, tasks: int) -> Path:
    """datatrove's directory of one plan, with its logs and what is done.

    Named by content: datatrove skips what is done there, also if the plan in the same directory has changed.
    """
    digest = hashlib.sha256(Path(plan_file).read_bytes() + f"\0{count}\0{tasks}".encode()).hexdigest()
    return Path(plan_file).parent / f"tasks-{digest[:16]}"


def _tasks(count: int, executor: Executor) -> int:
    return min(executor.tasks or -(-count // SHARDS_PER_TASK), count)


def _incomplete(done: Path, tasks: int) -> list[int]:
    return [task for task in range(tasks) if not (done / "completions" / f"{task:05d}").exists()]


def _forget(directory: Path) -> None:
    """Scores that are deleted later are made again: nothing is noted as done once the caller knows of it."""
    shutil.rmtree(directory / "completions", ignore_errors=True)
    (directory / "jobs.json").unlink(missing_ok=True)


def _without_noise() -> None:
    """Import datatrove, whose logger then prints errors only; the logs of the tasks keep everything."""
    # Else the logs would hold the values of all variables, and so texts.
    os.environ.setdefault("LOGURU_DIAGNOSE", "NO")
    import datatrove.executor.base  # noqa: F401 - it sets the logger up
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="ERROR", format="{message}")


def _run_ray(plan_file: str, count: int, executor: Executor, score_shards: ScoreShards, what: str) -> None:
    tasks = _tasks(count, executor)
    directory = _directory(plan_file, count, tasks)
    _without_noise()
    from datatrove.executor.ray import RayPipelineExecutor

    pipeline = RayPipelineExecutor(
        pipeline=[partial(_score_share, plan_file=plan_file, count=count, score_shards=score_shards)],
        tasks=tasks,
        workers=executor.workers or tasks,
        cpus_per_task=executor.cpus_per_task,
        mem_per_cpu_gb=executor.mem_per_cpu_gb,
        logging_dir=str(directory),
    )
    with _ray(executor.ray_address), progress(what, tasks, " tasks") as bar, _followed(bar, directory, tasks):
        pipeline.run()
    if failed := _incomplete(directory, tasks):
        raise _scoring_failed(directory, failed, tasks)
    _forget(directory)


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Connect to Ray, or start it, without its telemetry and the output of its workers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            message = f"no Ray cluster answers: {' '.join(str(error).split())}"
            raise refuse(
                "no-ray", message, "start it, or correct executor.ray_address", address or ""
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray sets its own
    try:
        yield
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _followed(bar: tqdm, directory: Path, tasks: int) -> Iterator[None]:
    """datatrove waits for Ray and reports nothing: the bar counts the tasks that are noted as done."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(LOOK_EVERY):
            bar.update(tasks - len(_incomplete(directory, tasks)) - bar.n)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _scoring_failed(directory: Path, failed: list[int], tasks: int) -> Refusal:
    log = directory / "logs" / f"task_{failed[0]:05d}.log"
    reason = f": {error}" if (error := _last_error(log)) else ""
    message = f"{len(failed)} of {tasks} tasks failed; task {failed[0]}{reason}"
    fix = "correct the cause, and run the same command again: it continues"
    return refuse("scoring-failed", message, fix, str(log) if log.exists() else str(directory), status=FAILED)


def _last_error(log: Path) -> str:
    """The last line of a log that names an exception; empty if the task was killed before it could write one."""
    if not log.is_file():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if re.match(r"[A-Za-z_][\w.]*: \S", line)), "")


def _run_slurm(plan_file: str, count: int, executor: Executor, score_shards: ScoreShards) -> None:
    tasks = _tasks(count, executor)
    directory = _directory(plan_file, count, tasks)
    if not (left := _incomplete(directory, tasks)):
        _forget(directory)
        return
    jobs_file = directory / "jobs.json"
    jobs = json.loads(jobs_file.read_text(encoding="utf-8")) if jobs_file.exists() else []
    if jobs and _are_queued(jobs):
        raise Stopped(f"until {_in_words(jobs)} has ended: {len(left)} of {tasks} tasks are left")
    if jobs:
        failed = _scoring_failed(directory, left, tasks).findings[0].message
        print(f"{_in_words(jobs)} has ended, but {failed}; submitted again", file=sys.stderr)
    if not shutil.which("sbatch"):
        message = "`kind: slurm` needs the command sbatch, which does not exist on this machine"
        raise refuse("no-slurm", message, "run it on a machine of the cluster that can submit jobs")
    pipeline, jobs = _slurm_pipeline(plan_file, count, tasks, directory, executor, score_shards)
    for offset in range(-(-len(left) // pipeline.max_array_size)):
        print(f"sbatch --export=ALL,RUN_OFFSET={offset} {directory / 'launch_script.slurm'}", flush=True)
    try:
        pipeline.launch_job()
    except subprocess.CalledProcessError as error:
        message = f"sbatch ended with status {error.returncode}"
        fix = "correct the executor section; the script is launch_script.slurm"
        raise refuse("submit-failed", message, fix, str(directory), status=FAILED) from error
    jobs_file.write_text(json.dumps(jobs), encoding="utf-8")
    raise Stopped(
        f"until Slurm has run {len(left)} of {tasks} tasks: {_in_words(jobs)} (squeue -j {','.join(jobs)}; logs in "
        f"{directory / 'slurm_logs'})"
    )


def _in_words(jobs: list[str]) -> str:
    return f"job {jobs[0]}" if len(jobs) == 1 else f"jobs {', '.join(jobs)}"


def _are_queued(jobs: list[str]) -> bool:
    """Whether one of the jobs waits or runs. squeue fails for jobs that ended some minutes ago."""
    try:
        command = ["squeue", "--noheader", "--jobs", ",".join(jobs)]
        return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return False


def _slurm_pipeline(
    plan_file: str, count: int, tasks: int, directory: Path, executor: Executor, score_shards: ScoreShards
) -> tuple[PipelineExecutor, list[str]]:
    """(datatrove's executor, the ids of the jobs that it submits)."""
    _without_noise()
    from datatrove.executor.slurm import SlurmPipelineExecutor

    jobs: list[str] = []
    # The job finds this Python and datatrove's launcher also if the environment is not activated.
    setup = [executor.env_command, f'export PATH="{Path(sys.executable).parent}:$PATH"']
    pipeline = SlurmPipelineExecutor(
        pipeline=[partial(_score_share, plan_file=plan_file, count=count, score_shards=score_shards)],
        tasks=tasks,
        time=executor.time,
        partition=executor.partition,
        workers=executor.workers or -1,
        cpus_per_task=executor.cpus_per_task,
        mem_per_cpu_gb=executor.mem_per_cpu_gb,
        job_name="lifecycle-curate",
        qos=None,  # datatrove's `normal` does not exist everywhere
        env_command="\n".join(filter(None, setup)),
        sbatch_args=dict(executor.sbatch),
        job_id_retriever=partial(_job_id, jobs),
        logging_dir=str(directory),
        with_srun=False,  # a task is one process on one machine
    )
    pipeline.launch_merge_stats = _submit_nothing  # a job more, for statistics that a single step has not
    return pipeline, jobs


def _job_id(jobs: list[str], output: str) -> str:
    """The id in `Submitted batch job 17`, or in `17;cluster` with --parsable."""
    jobs.append(output.split()[-1].split(";")[0])
    return jobs[-1]


def _submit_nothing() -> None:
    pass
