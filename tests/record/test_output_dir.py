"""The directory of a run: resumed, moved aside or refused, and never written over. No torch."""

from pathlib import Path

import pytest
from fake_runs import code_of, fake_raw, finish, save_checkpoint, save_weights, stop

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.record import output_dir
from lifecycle_recipes.record.gate import write_gate
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
    assert [file.read_text() for file in kept] == ["first", "second", "third"]


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


def test_only_complete_checkpoints_are_resumed_from(tmp_path):
    good, no_adam, cut, torn = (save_checkpoint(tmp_path, step) for step in (9, 10, 11, 100))
    (no_adam / "optimizer.pt").unlink()
    (cut / "optimizer.pt").write_bytes((cut / "optimizer.pt").read_bytes()[:50])
    (torn / "trainer_state.json").unlink()
    assert output_dir.last_checkpoint(tmp_path) == str(good)
    found = output_dir.find_incomplete_checkpoints(tmp_path)
    assert [(f.code, f.severity, Path(f.where)) for f in found] == [
        ("checkpoint-incomplete", "warning", directory) for directory in (torn, cut, no_adam)
    ]
    said = ("no trainer_state.json", "optimizer.pt is truncated", "no optimizer state")
    assert all(text in f.message and str(good) in f.fix for text, f in zip(said, found, strict=True))


def test_a_checkpoint_whose_state_was_cut_is_not_resumed_from(tmp_path):
    """A disk that is full at its last file leaves that file empty; resuming from it ends in a JSONDecodeError."""
    good, cut = (save_checkpoint(tmp_path, step) for step in (9, 10))
    (cut / "trainer_state.json").write_text("")
    assert output_dir.last_checkpoint(tmp_path) == str(good)
