"""The directory of a run: resumed, moved aside or refused, and never written over. No torch."""

import json
import os
import subprocess
import sys
import time

import pytest
from fake_runs import code_of, fake_raw, finish, save_checkpoint, save_weights, stop
from repository import ROOT

from lifecycle_recipes.finding import Refusal, refuse
from lifecycle_recipes.record import checkpoints
from lifecycle_recipes.record.gate import write_gate
from lifecycle_recipes.record.manifest import write_manifest
from lifecycle_recipes.record.run import Run, Stopped, is_done, read_record


def test_a_finished_run_is_refused_or_moved_aside(tmp_path):
    finish(tmp_path / "run", "first")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(Refusal) as refusal:
        finish(tmp_path / "run", "second")
    assert code_of(refusal) == "output-dir-finished"
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    for content in ("second", "third"):
        finish(tmp_path / "run", content, flags=["replace"])
    kept = [tmp_path / name / "model.safetensors" for name in ("run.replaced-1", "run.replaced-2", "run")]
    assert [file.read_bytes()[-6:].decode().strip("}") for file in kept] == ["first", "second", "third"]


def test_an_unfinished_run_is_resumed_also_with_replace(tmp_path):
    stop(tmp_path / "run", 10)
    write_gate(tmp_path / "run", [])
    for flags in ([], ["replace"]):
        with pytest.raises(Stopped), Run(fake_raw(tmp_path / "run", flags=flags)) as run:
            assert run.resume_from == str(tmp_path / "run" / "checkpoint-10")
            assert not (tmp_path / "run" / "gate.ok").exists()
            raise Stopped
    assert read_record(tmp_path / "run")["resumed_from"] == run.resume_from


def test_an_unfinished_run_of_another_recipe_is_refused(tmp_path):
    other = {"values": {"train": {"output_dir": str(tmp_path / "run"), "max_steps": 3}}}
    stop(tmp_path / "run")
    stop(tmp_path / "run", 10, **other)  # nothing to lose yet: taken over
    with pytest.raises(Refusal) as refusal:
        Run(fake_raw(tmp_path / "run")).__enter__()
    assert code_of(refusal) == "output-dir-other-run"
    with Run(fake_raw(tmp_path / "run", flags=["replace"])) as run:
        assert run.resume_from is None
    assert (tmp_path / "run.replaced-1" / "checkpoint-10").is_dir()


def test_a_comment_or_another_gate_is_the_same_run_and_other_data_is_not(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("1")
    values = {"data": {"sources": [{"path": str(data)}]}}
    finish(tmp_path / "run", values=values)
    changed = fake_raw(tmp_path / "run", values, text="# a comment", sha256="1", gate=["acc > 1"])
    assert is_done(changed)
    data.write_text("2")
    assert not is_done(changed)


def test_foreign_weights_are_not_overwritten(tmp_path):
    save_weights(tmp_path / "run")
    with pytest.raises(Refusal) as refusal:
        finish(tmp_path / "run")
    assert code_of(refusal) == "output-dir-not-ours"
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("name", ["README.md", "config.json", "notes", "a.jsonl", "checkpoint-2"])
def test_a_directory_with_files_of_no_run_is_refused_or_moved_aside(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(Refusal) as refusal:
        finish(tmp_path / "run")
    assert code_of(refusal) == "output-dir-not-ours" and name in refusal.value.findings[0].message
    assert [file.name for file in (tmp_path / "run").iterdir()] == [name]
    finish(tmp_path / "run", flags=["replace"])
    assert (tmp_path / "run.replaced-1" / name).read_text() == "mine"


def test_logs_hidden_files_and_a_start_that_was_killed_at_once_are_no_obstacle(tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".gitkeep", "slurm-7.out", "train.log", "_run.json.spare", "_run.lock", ".run.json.x7"):
        (tmp_path / "run" / name).write_text("x")
    finish(tmp_path / "run")
    assert read_record(tmp_path / "run")["status"] == "done"


@pytest.mark.parametrize(
    "name", ["lost+found/", "wandb/latest-run", "runs/events.out", "nohup.out", "empty/"]
)
def test_a_new_disk_and_what_trackers_write_are_no_obstacle(tmp_path, name):
    place = tmp_path / "run" / name
    place.mkdir(parents=True) if name.endswith("/") else place.parent.mkdir(parents=True)
    if not name.endswith("/"):
        place.write_text("x")
    finish(tmp_path / "run")
    assert place.exists() and read_record(tmp_path / "run")["status"] == "done"


def test_files_beside_the_record_of_a_refused_run_are_not_overwritten(tmp_path):
    with pytest.raises(Refusal), Run(fake_raw(tmp_path / "run")):
        raise refuse("no-rows", "no rows are left", "add some")
    assert read_record(tmp_path / "run")["refused"]
    other = {"values": {"train": {"output_dir": str(tmp_path / "run"), "max_steps": 3}}}
    (tmp_path / "run" / "README.md").write_text("mine")
    with pytest.raises(Refusal) as refusal:
        finish(tmp_path / "run", **other)
    assert code_of(refusal) == "output-dir-not-ours"
    assert "(README.md), and that of a run that was refused" in refusal.value.findings[0].message
    (tmp_path / "run" / "README.md").unlink()
    finish(tmp_path / "run", **other)


NEVER = "no manifest.json: it was never completed"


def cut(name: str):
    return lambda directory: os.truncate(directory / name, 1)


def zeroed(name: str):
    """What a power cut leaves: the size of the file without its content."""
    return lambda directory: (directory / name).write_bytes(bytes((directory / name).stat().st_size))


def without(name: str):
    return lambda directory: (directory / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "lacks"),
    [
        (without("optimizer.pt"), "optimizer.pt is missing"),
        (without("rng_state.pth"), "rng_state.pth is missing"),
        (without("manifest.json"), NEVER),
        (cut("manifest.json"), "manifest.json cannot be read"),
        (cut("model.safetensors"), "model.safetensors has 1 bytes, not "),
        (cut("trainer_state.json"), "trainer_state.json has 1 bytes, not 2"),
        (cut("optimizer.pt"), "optimizer.pt has 1 bytes, not "),
        (zeroed("model.safetensors"), "model.safetensors does not match its hash"),
        (zeroed("trainer_state.json"), "trainer_state.json does not match its hash"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_resumed(tmp_path, capsys, spoil, lacks):
    stop(tmp_path, 9)
    spoil(save_checkpoint(tmp_path, 10))
    (found,) = checkpoints.find_incomplete_checkpoints(tmp_path)
    assert (found.code, found.severity) == ("checkpoint-incomplete", "warning")
    assert lacks in found.message and str(tmp_path / "checkpoint-9") in found.fix
    with Run(fake_raw(tmp_path)) as run:
        assert run.resume_from == str(tmp_path / "checkpoint-9")
    assert "checkpoint-incomplete" in capsys.readouterr().err
    kept = sorted(path.name for path in tmp_path.glob("*checkpoint-*"))
    assert kept == ["checkpoint-9"] + ["damaged-checkpoint-10"] * (lacks != NEVER)


def test_weights_alone_are_no_checkpoint_to_resume_from_and_stay(tmp_path):
    """train.save_only_model: complete, and what the user wants to keep."""
    stop(tmp_path, 9)
    directory = save_checkpoint(tmp_path, 9, complete=False)
    for name in ("optimizer.pt", "scheduler.pt"):
        (directory / name).unlink()
    write_manifest(directory)
    assert checkpoints.checkpoint_lacks(directory) == "no optimizer state"
    with Run(fake_raw(tmp_path)) as run:
        assert run.resume_from is None and directory.is_dir()


def test_half_a_deleted_checkpoint_does_not_count(tmp_path):
    stop(tmp_path, 9)
    for step in (3, 6):
        save_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-3/manifest.json").unlink()
    with Run(fake_raw(tmp_path)):
        checkpoints.delete_old_checkpoints(tmp_path, 2, [tmp_path / "checkpoint-9"])
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-9"]


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, [30]), (2, None, [20, 30]), (2, 10, [10, 30]), (1, 10, [10, 30]), (None, None, [10, 20, 30])],
)
def test_the_newest_and_the_best_checkpoint_are_kept(tmp_path, keep, best, left):
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step)
    protected = [tmp_path / "checkpoint-30", best and tmp_path / f"checkpoint-{best}"]
    checkpoints.delete_old_checkpoints(tmp_path, keep, protected)
    assert sorted(int(path.name[11:]) for path in tmp_path.glob("checkpoint-*")) == left


def test_ppo_does_not_resume(tmp_path):
    stop(tmp_path, 10, stage="ppo")
    with Run(fake_raw(tmp_path, stage="ppo")) as run:
        assert run.resume_from is None
    assert read_record(tmp_path)["resumed_from"] is None


# --- the lock ---------------------------------------------------------------------------------------------

START = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests/fixtures")
from fake_runs import fake_raw
from lifecycle_recipes.exit_status import stage_exit
from lifecycle_recipes.record.run import Run
directory, signs, name, *flags = sys.argv[1:]
Path(signs, name).touch()
while not Path(signs, "go").exists():
    time.sleep(0.0005)
with stage_exit(), Run(fake_raw(directory, flags=flags)):
    while not Path(signs, "end").exists():
        time.sleep(0.01)
"""


def start_together(directory, signs, count: int, *flags) -> list[tuple[int, str]]:
    """(exit status, what it said) of `count` runs that start at the same instant; one that runs ends last."""
    signs.mkdir()
    command = [sys.executable, "-c", START, str(directory), str(signs)]
    started = [
        subprocess.Popen([*command, str(i), *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for i in range(count)
    ]
    wait_until(lambda: len(list(signs.iterdir())) == count)
    (signs / "go").touch()
    wait_until(lambda: sum(process.poll() is None for process in started) <= 1)
    (signs / "end").touch()
    said = [process.communicate(timeout=60)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def wait_until(true, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize(("count", "flags"), [(20, []), (8, ["--replace"])], ids=["", "replace"])
def test_of_simultaneous_starts_exactly_one_runs(tmp_path, count, flags):
    if flags:
        finish(tmp_path / "run", "before")
    ends = start_together(tmp_path / "run", tmp_path / "signs", count, *flags)
    assert sorted(status for status, _ in ends) == [0] + [2] * (count - 1), ends
    assert all("[output-dir-busy]" in said for status, said in ends if status)
    assert read_record(tmp_path / "run")["status"] == "done"
    assert not (tmp_path / "run/_run.lock").exists()
    assert [path.name for path in tmp_path.glob("*.replaced-*")] == ["run.replaced-1"] * len(flags)


def test_a_killed_process_leaves_no_lock_and_its_children_keep_none(tmp_path):
    script = "import os, sys, time; sys.path.insert(0, 'tests/fixtures'); from fake_runs import fake_raw\n"
    script += "from lifecycle_recipes.record.run import Run\n"
    script += f"Run(fake_raw({str(tmp_path / 'run')!r})).__enter__()\n"
    script += "forked, told = os.pipe()\nchild = os.fork()\n"
    script += "if not child:\n    os.write(told, b'1'), time.sleep(600)\n"
    script += "os.read(forked, 1), print(child, flush=True), os.kill(os.getpid(), 9)"
    with (tmp_path / "out").open("w") as out:  # a pipe would stay open in the child
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=out, check=False)
    child = int((tmp_path / "out").read_text())
    try:
        assert done.returncode == -9 and (tmp_path / "run/_run.lock").exists()
        with Run(fake_raw(tmp_path / "run")):
            pass
    finally:
        os.kill(child, 9)


def test_a_run_on_another_host_that_was_not_ended_is_a_warning(tmp_path, capsys):
    stop(tmp_path)
    record = read_record(tmp_path)
    record |= {"status": "running", "process": record["process"] | {"host": "node7"}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with Run(fake_raw(tmp_path)) as run:
        assert [finding.code for finding in run.findings] == ["output-dir-other-host"]
    assert "on node7" in capsys.readouterr().err


# --- what differs -----------------------------------------------------------------------------------------


def values(directory, **changes) -> dict:
    return {"train": {"output_dir": str(directory), "seed": 7, "max_steps": 3} | changes}


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"max_steps": 6}, "train.max_steps: 3 there, 6 here"),
        ({"lr": 1e-3}, "train.lr: not set there, 0.001 here"),
        (
            {"max_steps": 4, "a": 1, "b": 2, "c": 3},
            "train.max_steps: 3 there, 4 here; train.a: not set there, 1 here; "
            "train.b: not set there, 2 here and 1 more",
        ),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_the_refusal_names_what_differs(tmp_path, here, message, finished):
    if finished:
        finish(tmp_path, values=values(tmp_path))
    else:
        stop(tmp_path, 10, values=values(tmp_path))
    with pytest.raises(Refusal) as refusal:
        Run(fake_raw(tmp_path, values(tmp_path, **here))).__enter__()
    assert code_of(refusal) == ("output-dir-finished" if finished else "output-dir-other-run")
    assert refusal.value.findings[0].message.endswith(f": {message}")


def test_a_changed_file_and_a_changed_parent_are_named(tmp_path):
    rows, parent = tmp_path / "rows.jsonl", tmp_path / "parent"
    rows.write_text("1")
    save_weights(parent)
    sources = {"data": {"sources": [{"path": str(rows)}]}, "model": {"model_name_or_path": str(parent)}}
    finish(tmp_path / "run", values=sources)
    rows.write_text("2")
    save_weights(parent, "others")
    with pytest.raises(Refusal) as refusal:
        Run(fake_raw(tmp_path / "run", sources)).__enter__()
    message = refusal.value.findings[0].message
    assert f"the weights of the model parent {parent} have changed; {rows} has changed" in message


def test_an_evaluation_is_no_part_of_the_training(tmp_path):
    """A run that was trained and failed in its evaluation only evaluates, also by another rubric."""
    rubric = tmp_path / "rubric.py"

    def raw(**evaluate):
        return fake_raw(tmp_path / "run", {"evaluate": {"rubric": str(rubric)} | evaluate})

    rubric.write_text("wrong")
    with pytest.raises(ZeroDivisionError), Run(raw()) as run:
        save_weights(run.output_dir)
        run.metrics["train_loss"] = 0.1 + 0.2
        run.note(tokens=5)
        run.note_trained()
        run.metrics["half"] = 1.0
        raise ZeroDivisionError
    rubric.write_text("right")
    with Run(raw(limit=3)) as run:
        assert run.trained and run.resume_from is None and run.metrics == {"train_loss": 0.1 + 0.2}
    record = read_record(tmp_path / "run")
    assert (record["status"], record["tokens"], record["metrics"]) == ("done", 5, {"train_loss": 0.1 + 0.2})
    assert is_done(raw(limit=3)) and not is_done(raw())
    with pytest.raises(Refusal, match="evaluate.limit: 3 there, 4 here"):
        Run(raw(limit=4)).__enter__()


def test_a_trained_model_that_changed_since_is_trained_again(tmp_path):
    with pytest.raises(ZeroDivisionError), Run(fake_raw(tmp_path)) as run:
        save_weights(tmp_path)
        run.note_trained()
        raise ZeroDivisionError
    save_weights(tmp_path, "others")
    with Run(fake_raw(tmp_path)) as run:
        assert not run.trained


def test_an_unreadable_record_is_moved_aside_by_replace(tmp_path):
    finish(tmp_path / "run")
    (tmp_path / "run/run.json").write_text("{")
    with pytest.raises(Refusal) as refusal:
        Run(fake_raw(tmp_path / "run")).__enter__()
    assert code_of(refusal) == "bad-record" and "--replace" in refusal.value.findings[0].fix
    finish(tmp_path / "run", flags=["replace"])
    assert (tmp_path / "run.replaced-1/run.json").read_text() == "{"


def test_replacing_a_link_moves_what_it_points_to(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "run").symlink_to(disk / "run")
    (disk / "run").mkdir()
    for content in ("first", "second"):
        finish(tmp_path / "run", content, flags=["replace"])
    assert (tmp_path / "run").is_symlink() and read_record(disk / "run")["status"] == "done"
    assert read_record(disk / "run.replaced-1")["status"] == "done"
