"""Every shard is scored once, wherever it runs; what was killed or failed says so, and the next call continues."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lifecycle_recipes.curation import executors, progress
from lifecycle_recipes.curation.executors import Executor, find_in_settings, run
from lifecycle_recipes.exit_status import Stopped
from lifecycle_recipes.finding import FAILED, Refusal, refuse

HERE = Path(__file__).parent


def score_shards(plan_file, indices):
    """The scores of a shard are a file with the number of this process; the plan says which shard fails, once."""
    plan = json.loads(Path(plan_file).read_text())
    folder = Path(plan_file).parent
    for index in indices:
        result, failed = folder / f"scores-{index}", folder / f"failed-{index}"
        if result.exists():
            continue
        if plan.get("fails") == index and not failed.exists():
            failed.touch()
            fail(plan["how"])
        result.write_text(str(os.getpid()))


def fail(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "leave":
        os._exit(7)
    if how == "refuse":
        raise refuse("some-code", "the message", "the fix", "r.yaml:3", status=FAILED)
    if how == "wait":
        time.sleep(600)
    raise ValueError("the text is broken")


def write_plan(folder, **plan):
    (folder / "plan.json").write_text(json.dumps(plan))
    return str(folder / "plan.json")


def scored(folder) -> dict[int, int]:
    """Number of a shard: the process that scored it."""
    return {int(file.name.split("-")[1]): int(file.read_text()) for file in folder.glob("scores-*")}


def test_one_worker_is_this_process(tmp_path):
    run(write_plan(tmp_path), 5, Executor(workers=1), score_shards, "scoring")
    assert scored(tmp_path) == dict.fromkeys(range(5), os.getpid())


def test_several_workers_are_other_processes(tmp_path, capfd):
    run(write_plan(tmp_path), 9, Executor(workers=2), score_shards, "scoring")
    found = scored(tmp_path)
    assert sorted(found) == list(range(9)) and os.getpid() not in found.values()
    assert capfd.readouterr() == ("", "")  # not a terminal


def note_mask(plan_file, indices):
    masked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    Path(plan_file).with_name(f"mask-{masked}").touch()


def test_ctrl_c_does_not_reach_the_workers(tmp_path):
    run(write_plan(tmp_path), 3, Executor(workers=2), note_mask, "scoring")
    assert [file.name for file in tmp_path.glob("mask-*")] == ["mask-True"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_nothing_is_started_for_nothing(tmp_path):
    run(str(tmp_path / "no-plan.json"), 0, Executor(), score_shards, "scoring")


@pytest.mark.parametrize(
    ("how", "words"), [("kill", "was ended by SIGKILL (out of memory?)"), ("leave", "ended with status 7")]
)
def test_a_killed_worker_is_named_and_the_next_call_continues(tmp_path, how, words):
    plan = write_plan(tmp_path, fails=3, how=how)
    with pytest.raises(Refusal) as refused:
        run(plan, 6, Executor(workers=2), score_shards, "scoring")
    finding = refused.value.findings[0]
    assert (finding.code, refused.value.status) == ("worker-killed", FAILED)
    assert words in finding.message and "run the same command again" in finding.fix
    assert ("executor.workers" in finding.fix) == (how == "kill")
    before = scored(tmp_path)
    assert 3 not in before
    run(plan, 6, Executor(workers=2), score_shards, "scoring")
    assert sorted(scored(tmp_path)) == list(range(6)) and before.items() <= scored(tmp_path).items()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_keeps_its_code_and_status(tmp_path, workers):
    plan = write_plan(tmp_path, fails=0, how="refuse")
    with pytest.raises(Refusal) as refused:
        run(plan, 4, Executor(workers=workers), score_shards, "scoring")
    assert str(refused.value.findings[0]) == "error [some-code] r.yaml:3: the message\n    fix: the fix"
    assert refused.value.status == FAILED


def test_an_error_in_a_worker_is_raised_here(tmp_path):
    plan = write_plan(tmp_path, fails=0, how="raise")
    with pytest.raises(ValueError, match="the text is broken"):
        run(plan, 4, Executor(workers=2), score_shards, "scoring")


STAGE = """
from lifecycle_recipes.curation.executors import Executor, run
from lifecycle_recipes.exit_status import stage_exit
from test_executors import score_shards

if __name__ == "__main__":
    with stage_exit():
        run({plan!r}, 4, Executor(workers=2), score_shards, "scoring")
"""


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


def ended(group) -> bool:
    """Whether no process of the group is left; a zombie is none."""
    states = [file.read_text().rpartition(")")[2].split() for file in Path("/proc").glob("[0-9]*/stat")]
    return not any(int(state[2]) == group and state[0] != "Z" for state in states)


@pytest.fixture
def waiting_stage(tmp_path):
    """A process of two workers, of which one waits; with what the test module needs to be found."""
    (tmp_path / "stage.py").write_text(STAGE.format(plan=write_plan(tmp_path, fails=0, how="wait")))
    path = os.pathsep.join([str(HERE), str(Path(executors.__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, tmp_path / "stage.py"]
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True, "env": environment}
    # A test session in the background may ignore SIGINT, and its children would inherit that.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **options) as process:
        wait_until(lambda: (tmp_path / "failed-0").exists() and len(scored(tmp_path)) == 3)
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_workers(waiting_stage, number):
    send = os.killpg if number == signal.SIGINT else os.kill  # Ctrl-C reaches the workers, too
    send(waiting_stage.pid, number)
    errors = waiting_stage.communicate()[1]
    assert waiting_stage.returncode == 4
    assert len(errors.splitlines()) == 1 and errors.startswith("interrupted")
    wait_until(lambda: ended(waiting_stage.pid))


def test_workers_end_with_a_parent_that_is_killed(waiting_stage):
    waiting_stage.kill()
    waiting_stage.wait()
    wait_until(lambda: ended(waiting_stage.pid))


def test_a_terminal_shows_a_bar(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "SHOWN_AFTER", 0)
    run(write_plan(tmp_path), 3, Executor(workers=1), score_shards, "scoring")
    assert "\rscoring:" in sys.stderr.getvalue() and "shards" in sys.stderr.getvalue()


def test_a_log_file_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    run(write_plan(tmp_path), 3, Executor(workers=1), score_shards, "scoring")
    assert not sys.stderr.getvalue()
    monkeypatch.setattr(progress, "LINE_EVERY", 0)
    run(write_plan(tmp_path), 3, Executor(workers=1), score_shards, "scoring")
    lines = sys.stderr.getvalue().splitlines()
    assert len(lines) >= 3 and all(line.startswith("scoring:") and "/3" in line for line in lines)


def codes(**settings):
    return [finding.code for finding in find_in_settings(Executor(**settings), "r.yaml:7")]


def test_settings_are_checked(monkeypatch):
    assert codes() == codes(workers=3) == []
    assert codes(partition="cpu") == codes(ray_address="auto") == codes(tasks=3) == ["no-effect"]
    monkeypatch.setattr(executors, "_missing_packages", lambda kind: [])
    assert codes(kind="slurm") == ["missing-key", "missing-key"]
    slurm = {"kind": "slurm", "partition": "cpu", "time": "1:00:00"}
    assert codes(**slurm, tasks=3, sbatch={"account": "a"}) == []
    monkeypatch.setattr(executors, "_missing_packages", lambda kind: ["datatrove"])
    assert codes(**slurm) == ["missing-package"]


def test_a_missing_package_is_named_by_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"datatrove and ray(.|\n)*lifecycle-recipes\[scale\]") as refused:
        run(write_plan(tmp_path), 1, Executor(kind="ray"), score_shards, "scoring")
    assert refused.value.findings[0].code == "missing-package"


# Stubs of Slurm's commands. sbatch keeps the script and its arguments; it runs the array if RUN is set.
SBATCH = """#!/bin/bash
script="${@: -1}"
echo "$@" >> "$SLURM_STUB/calls"
cp "$script" "$SLURM_STUB/script"
if [ -n "$RUN" ]; then
    last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
    for task in $(seq 0 "$last"); do
        SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=here bash "$script" > "$SLURM_STUB/out-$task" 2>&1
    done
fi
[ -n "$REJECT" ] && exit 1
echo "Submitted batch job 17"
"""
STUBS = {
    "sbatch": SBATCH,
    "scontrol": "#!/bin/bash\necho here\n",
    "squeue": '#!/bin/bash\n[ -n "$QUEUED" ] && echo "17 lifecycle-curate R"\nexit 0\n',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder to which the stub writes what it was given."""
    pytest.importorskip("datatrove")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STUB", str(folder))
    path = [str(HERE), str(Path(executors.__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return folder


def on_slurm(**settings):
    return Executor(kind="slurm", partition="cpu", time="1:00:00", **settings)


def calls(slurm):
    return (slurm / "calls").read_text().splitlines() if (slurm / "calls").exists() else []


def test_slurm_gets_an_array_and_the_command_ends(tmp_path, slurm, capfd):
    executor = on_slurm(tasks=3, workers=2, sbatch={"account": "mine"}, env_command="module load python")
    with pytest.raises(Stopped, match="3 of 3 tasks: job 17.*squeue -j 17"):
        run(write_plan(tmp_path), 10, executor, score_shards, "scoring")
    script = (slurm / "script").read_text()
    for line in ("array=0-2%2", "partition=cpu", "time=1:00:00", "account=mine", "mem-per-cpu=2G"):
        assert f"#SBATCH --{line}\n" in script
    assert "--qos" not in script and "module load python\n" in script
    assert len(calls(slurm)) == 1  # no job for statistics
    out, err = capfd.readouterr()
    [line] = out.splitlines()
    launch = line.split()
    assert launch[:2] == ["sbatch", "--export=ALL,RUN_OFFSET=0"] == ["sbatch", calls(slurm)[0].split()[0]]
    assert Path(launch[2]).read_text() == script
    assert err == ""  # datatrove's lines


@pytest.mark.model
def test_slurm_runs_the_array_until_everything_is_found(tmp_path, slurm, monkeypatch, capfd):
    monkeypatch.setenv("RUN", "1")
    plan, executor = write_plan(tmp_path, fails=1, how="raise"), on_slurm(tasks=2)
    with pytest.raises(Stopped, match="2 of 2 tasks"):
        run(plan, 4, executor, score_shards, "scoring")
    # The worker may have begun the next shard of the task that fails.
    assert {0, 2} <= set(scored(tmp_path)) <= {0, 2, 3}, (slurm / "out-0").read_text()
    # Of another plan in the same place nothing is done; datatrove alone would skip its first task.
    monkeypatch.delenv("RUN")
    with pytest.raises(Stopped, match="2 of 2 tasks"):
        run(write_plan(tmp_path, threshold=2), 4, executor, score_shards, "scoring")
    write_plan(tmp_path, fails=1, how="raise")
    monkeypatch.setenv("RUN", "1")
    capfd.readouterr()
    with pytest.raises(Stopped, match="1 of 2 tasks"):  # what failed is named, and submitted again
        run(plan, 4, executor, score_shards, "scoring")
    assert "1 of 2 tasks failed; task 1: ValueError: the text is broken" in capfd.readouterr().err
    found = scored(tmp_path)
    assert sorted(found) == list(range(4)) and found[0] == found[2] != found[1]
    run(plan, 4, executor, score_shards, "scoring")
    assert len(calls(slurm)) == 3


def test_jobs_that_wait_or_run_are_not_submitted_again(tmp_path, slurm, monkeypatch):
    plan, executor = write_plan(tmp_path), on_slurm()
    for _ in range(2):
        with pytest.raises(Stopped, match="job 17"):
            run(plan, 2, executor, score_shards, "scoring")
        monkeypatch.setenv("QUEUED", "1")
    assert len(calls(slurm)) == 1


def test_what_sbatch_rejects_is_refused(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("REJECT", "1")
    with pytest.raises(Refusal, match="submit-failed") as refused:
        run(write_plan(tmp_path), 2, on_slurm(), score_shards, "scoring")
    assert refused.value.status == FAILED


def test_without_sbatch_the_machine_is_named(tmp_path, slurm, monkeypatch):
    (slurm / "sbatch").unlink()
    with pytest.raises(Refusal, match="no-slurm"):
        run(write_plan(tmp_path), 2, on_slurm(), score_shards, "scoring")


def test_without_a_ray_cluster_its_address_is_named(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(Refusal, match="no-ray"), executors._ray("auto"):
        pass


@pytest.mark.model
def test_ray_scores_every_shard(tmp_path, monkeypatch, capfd):
    pytest.importorskip("datatrove")
    pytest.importorskip("ray")
    path = [str(HERE), str(Path(executors.__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    plan, executor = (
        write_plan(tmp_path, fails=1, how="kill"),
        Executor(kind="ray", tasks=2, mem_per_cpu_gb=1),
    )
    handler = signal.getsignal(signal.SIGTERM)
    with executors._ray(None):  # once for both
        assert signal.getsignal(signal.SIGTERM) == handler
        with pytest.raises(Refusal) as refused:
            run(plan, 5, executor, score_shards, "scoring")
        finding = refused.value.findings[0]
        assert (finding.code, refused.value.status) == ("scoring-failed", FAILED)
        assert "1 of 2 tasks failed; task 1: " in finding.message and "SIGKILL" in finding.message
        assert sorted(scored(tmp_path)) == [0, 2, 4]
        run(plan, 5, executor, score_shards, "scoring")
    assert sorted(scored(tmp_path)) == list(range(5)) and os.getpid() not in scored(tmp_path).values()
    assert "Traceback" not in capfd.readouterr().err
