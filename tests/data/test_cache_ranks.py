"""Several processes: one tokenises, the others wait for it, and not inside the process group."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cached_rows import STAGES, build, rows, write_pretrain
from free_port import free_port
from repository import ROOT

# Seconds after which a launch counts as one that hangs: far beyond what any takes on a busy machine, and below
# what upstream waits for a process that is gone (600).
HANGS = 400
# Builds the trainer of each recipe on every rank; a line of JSON per recipe and rank.
RANKS = """
import fcntl, json, os, sys, time
sys.path.insert(0, "tests/fixtures")
from lifecycle_recipes.exit_status import stage_exit

with stage_exit():
    from cached_rows import build, rows
    from lifecycle_recipes.data import sources
    from lifecycle_recipes.finding import refuse

    load, calls, seconds = sources.load_data, [], float(os.environ.get("SLOW", 0))

    def count(*args, **kwargs):
        calls.append(1)
        if os.environ.get("FAIL") == "refusal":
            raise refuse("no-rows", "planted")
        if os.environ.get("FAIL") == "error on machine 1" and os.environ["RANK"] == "1":
            raise ZeroDivisionError("planted")
        time.sleep(seconds)
        return load(*args, **kwargs)

    sources.load_data = count
    for path in sys.argv[1:]:
        if path.startswith("cache="):
            os.environ["LIFECYCLE_CACHE"] = path[6:]
            continue
        calls.clear()
        trainer, run = build(path, "--ddp_timeout", "4")
        said = json.dumps({
            "rank": os.environ["RANK"], "calls": len(calls), "notes": run.notes, "path": path,
            "rows": [rows(trainer.train_dataset), rows(trainer.eval_dataset)],
            "codes": [finding.code for finding in run.findings],
        })
        with open(__file__) as lock:  # both ranks write into one pipe, more than it takes at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            print(said, flush=True)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    return str(tmp_path / "ranks.py")


@pytest.fixture
def recipes(stage_recipe, tmp_path, tiny_texts, tiny_model_dir, tiny_reward_dir):
    reward = {"reward": {"model_name_or_path": tiny_reward_dir}}
    found = {s: stage_recipe(s, **(reward if s == "ppo" else {})) for s in STAGES if s != "pretrain"}
    return found | {"pretrain": write_pretrain(tmp_path / "pretrain", tiny_texts, tiny_model_dir)}


def start(*arguments: str, cwd=ROOT, cache: Path, **more: str) -> subprocess.Popen:
    environment = os.environ | {"LIFECYCLE_CACHE": str(cache), "ACCELERATE_USE_CPU": "true"} | more
    # A directory of another working tree must not win over this one.
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, start_new_session=True, **pipes)


def two(*arguments: str, **options) -> tuple[subprocess.CompletedProcess, list[dict]]:
    process = start("--standalone", "--nproc_per_node", "2", *arguments, **options)
    said, err = end(process)
    return subprocess.CompletedProcess(process.args, process.returncode, stderr=err), said


def end(process: subprocess.Popen) -> tuple[list[dict], str]:
    """What it said, once it has ended by itself; one that hangs is an error, and ended with its ranks."""
    try:
        out, err = process.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher then ends its ranks, which are in sessions of their own
        process.communicate()
        raise
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")], err


def test_one_of_two_processes_tokenises_and_both_train_on_the_same(recipes, script, tmp_path, monkeypatch):
    """Also where the cache cannot be used: then each for itself, and neither waits for the other."""
    (tmp_path / "file").touch()
    again = [recipes["sft"], f"cache={tmp_path}/file", recipes["dpo"]]
    done, said = two(script, *recipes.values(), *again, cache=tmp_path / "cache", SLOW="0")
    assert done.returncode == 0, done.stderr[-3000:]
    zero, one = ([line for line in said if line["rank"] == rank] for rank in "01")
    assert [line["calls"] for line in zero] == [1] * 6 + [0, 1]
    assert [line["calls"] for line in one] == [0] * 7 + [1]
    assert [line["rows"] for line in zero] == [line["rows"] for line in one]
    assert [line["notes"]["data_cache"]["hit"] for line in zero] == [False] * 6 + [True, False]
    assert done.stderr.count("rank 0 prepares the rows for 2 processes") == 7
    assert zero[-1]["codes"] == ["cache-unusable"]
    # A single process finds what the two have made, and makes the same where there is no cache.
    for name in ("cache", "other"):
        monkeypatch.setenv("LIFECYCLE_CACHE", str(tmp_path / name))
        for line in zero[:6]:
            trainer, run = build(line["path"])
            assert run.notes["data_cache"] == {**line["notes"]["data_cache"], "hit": name == "cache"}
            assert json.dumps(run.notes["data"]) == json.dumps(line["notes"]["data"])
            assert (
                json.loads(json.dumps([rows(trainer.train_dataset), rows(trainer.eval_dataset)]))
                == line["rows"]
            )


@pytest.mark.slow
def test_preparing_may_take_longer_than_the_process_group_waits(recipes, script, tmp_path):
    done, said = two(script, recipes["kto"], cache=tmp_path / "cache", SLOW="15")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(line["calls"] for line in said) == [0, 1]


@pytest.mark.slow
def test_a_refusal_while_preparing_is_said_once_and_ends_both(recipes, tmp_path, script):
    done, said = two(script, recipes["sft"], cache=tmp_path / "cache", FAIL="refusal")
    # torchrun repeats it in a report of its own, which our launcher leaves out.
    assert said == [] and done.stderr.splitlines().count("error [no-rows] planted") == 1
    assert "exitcode  : 2" in done.stderr and "rows-not-prepared" not in done.stderr


def machine(number: int, port: str, *arguments: str, **options) -> subprocess.Popen:
    nodes = ["--nnodes", "2", "--node_rank", str(number), "--nproc_per_node", "1"]
    return start(*nodes, "--master_addr", "127.0.0.1", "--master_port", port, *arguments, **options)


def ends(*machines: subprocess.Popen) -> list[tuple[int, list[dict], str]]:
    found = []
    for process in machines:
        said, err = end(process)
        found.append((process.returncode, said, err))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "unshared"])
def test_a_second_machine_prepares_only_where_it_sees_no_entry(recipes, script, tmp_path, shared):
    port, caches = free_port(), [tmp_path / "cache", tmp_path / ("cache" if shared else "own")]
    both = [machine(i, port, script, recipes["sft"], cache=caches[i]) for i in (0, 1)]
    (status, [zero], err), (other, [one], _) = ends(*both)
    assert (status, other) == (0, 0), err
    assert zero["calls"] == 1 and one["calls"] == (0 if shared else 1)
    assert zero["rows"] == one["rows"] and zero["notes"]["data"] == one["notes"]["data"]


@pytest.mark.slow
def test_a_machine_with_other_data_is_refused(recipes, script, tmp_path):
    """The same path, and another content."""
    text = Path(recipes["sft"]).read_text()
    port, both = free_port(), []
    for i in (0, 1):
        folder = tmp_path / f"machine{i}"
        folder.mkdir()
        (folder / "tests").symlink_to(ROOT / "tests")
        for name in ("train", "eval"):
            source = Path(recipes["sft"]).parent / f"{name}.jsonl"
            lines = source.read_text().splitlines(keepends=True)
            (folder / f"{name}.jsonl").write_text("".join(lines[: len(lines) - i]))
        (folder / "sft.yaml").write_text(text.replace(f"{Path(recipes['sft']).parent}/", ""))
        both.append(machine(i, port, script, "sft.yaml", cwd=folder, cache=tmp_path / "cache"))
    for status, said, err in ends(*both):
        assert status and not said and "[machines-differ]" in err and "files differ" in err


@pytest.mark.slow
def test_a_machine_that_waits_ends_with_the_one_that_prepares(recipes, script, tmp_path):
    port = free_port()
    zero = machine(0, port, script, recipes["sft"], cache=tmp_path / "zero", SLOW=str(2 * HANGS))
    one = machine(1, port, script, recipes["sft"], cache=tmp_path / "one")
    for line in zero.stderr:
        if "rank 0 prepares" in line:
            break
    for pid in Path(f"/proc/{zero.pid}/task/{zero.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    zero.kill()
    [(status, said, err)] = ends(one)
    zero.communicate()
    assert status and said == [] and "[rows-not-prepared]" in err


@pytest.mark.slow
def test_an_error_on_another_machine_ends_all(recipes, script, tmp_path):
    port, fail = free_port(), {"FAIL": "error on machine 1"}
    both = [machine(i, port, script, recipes["sft"], cache=tmp_path / f"{i}", **fail) for i in (0, 1)]
    (status, said, err), (other, _, theirs) = ends(*both)
    assert status and said == [] and "[rows-not-prepared]" in err and "ZeroDivisionError: planted" in err
    assert other and "Traceback" in theirs
