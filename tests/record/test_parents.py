"""The parents of a run: recorded with their hashes; unfinished, failed or changed ones refused. No torch."""

import json
import os
import time

import pytest
from fake_runs import code_of, fake_raw, finish, save_checkpoint, save_weights

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.record import parents
from lifecycle_recipes.record.gate import judge, write_gate
from lifecycle_recipes.record.run import Run, read_record

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})


@pytest.fixture
def parent(tmp_path):
    finish(tmp_path / "parent", gate=["acc > 0.5"])
    set_metric(tmp_path / "parent", 0.9)
    return tmp_path / "parent"


def set_metric(directory, value, **fields):
    record = read_record(directory) | {"metrics": {"acc": value}} | fields
    (directory / "run.json").write_text(json.dumps(record))


def start_child(parent, **options):
    values = {"model": {"model_name_or_path": str(parent)}}
    with Run(fake_raw(parent.parent / "child", values, **options)) as run:
        pass
    return run


def test_a_parent_is_recorded_with_its_hash(parent):
    run = start_child(parent)
    assert run.parents == {"model": str(parent)}
    recorded = read_record(parent.parent / "child")["parents"]["model"]
    assert recorded["identity"] == read_record(parent)["identity"]
    assert recorded["weights_sha256"] == read_record(parent)["weights_sha256"] is not None
    assert recorded["relative"] == "../parent"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda p: set_metric(p, 0.1), "parent-gate-failed"),
        (lambda p: set_metric(p, None), "parent-gate-failed"),
        (lambda p: set_metric(p, 0.9, status="stopped"), "parent-unfinished"),
        (lambda p: save_weights(p, "other"), "parent-changed"),
        (lambda p: os.truncate(p / "model.safetensors", 70), "parent-unreadable"),
        (lambda p: os.truncate(p / "model.safetensors", 0), "parent-unreadable"),
        (lambda p: (p / "model.safetensors").write_text(LFS), "parent-unreadable"),
        (lambda p: (p / "model.safetensors.index.json").write_text(INDEX), "parent-unreadable"),
        (lambda p: (p / "model.safetensors").unlink(), "parent-no-weights"),
        (lambda p: (p / "run.json").write_text("{"), "bad-record"),
        (lambda p: p.rename(p.with_name("gone")), "parent-missing"),
    ],
)
def test_a_parent_that_must_not_be_used_is_refused_and_run_json_says_why(parent, damage, code):
    damage(parent)
    with pytest.raises(Refusal) as refusal:
        start_child(parent)
    assert (code_of(refusal), refusal.value.status) == (code, 2)
    assert read_record(parent.parent / "child")["status"].startswith(f"failed: [{code}]")


def test_a_failed_parent_is_allowed_on_request_and_judged_by_the_gate_it_passed(parent):
    set_metric(parent, 0.1)
    assert start_child(parent, flags=["allow-failed-parent"]).parents
    from lifecycle_recipes.record.gate import judge

    assert write_gate(parent, judge(parent, ["acc > 0.05"]))  # lifecycle gate RECIPE with a milder gate
    assert start_child(parent, flags=["replace"]).parents


@pytest.mark.parametrize(
    ("fields", "value", "code"),
    [({"status": "stopped"}, 0.9, "parent-unfinished"), ({}, 0.1, "parent-gate-failed")],
)
def test_a_checkpoint_is_bound_by_the_contract_of_its_run(parent, fields, value, code):
    checkpoint = save_checkpoint(parent, 2)
    assert start_child(checkpoint)
    set_metric(parent, value, **fields)
    with pytest.raises(Refusal) as refusal:
        start_child(checkpoint, flags=["replace"])
    assert code_of(refusal) == code and parent.name in refusal.value.findings[0].fix


def test_unreadable_weights_name_the_file(parent):
    (parent / "run.json").unlink()
    os.truncate(parent / "model.safetensors", 70)
    with pytest.raises(Refusal) as refusal:
        start_child(parent)
    found = refusal.value.findings[0]
    assert found.where == str(parent / "model.safetensors") and "header" in found.message
    assert parents.check_parent("model", str(save_checkpoint(parent, 2)), "hash", False) is None


def test_a_repaired_parent_needs_no_other_output_dir(parent):
    set_metric(parent, 0.1)
    with pytest.raises(Refusal):
        start_child(parent)
    save_weights(parent, "trained again")
    set_metric(parent, 0.9, weights_sha256=None)
    assert start_child(parent)


@pytest.mark.parametrize("path", ["HuggingFaceTB/SmolLM2-135M", "gpt2"])
def test_a_hub_id_is_no_local_parent(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with Run(fake_raw(tmp_path / "run", {"model": {"model_name_or_path": path}})) as run:
        assert run.parents == {}


def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    """Also if its size and time of change are set back; a file just written may change within one tick."""
    file, read, digest = tmp_path / "rows.jsonl", [], parents.hashlib.file_digest
    monkeypatch.setattr(parents.hashlib, "file_digest", lambda *a: read.append(1) or digest(*a))
    file.write_text("one")
    first = parents.hash_file(file)
    assert parents.hash_file(file) == first and len(read) == 2
    monkeypatch.setattr(parents, "SETTLED_NS", -(10**18))  # the file counts as old
    assert parents.hash_inputs({"data": str(file)}) == {str(file): parents.hash_file(file)}
    assert len(read) == 3
    before = os.stat(file)
    time.sleep(0.05)
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert parents.hash_file(file) != first and len(read) == 4


def test_the_cheap_cure_of_a_failed_gate_comes_first_and_works(parent):
    set_metric(parent, 0.1, recipe={"path": "recipes/parent.yaml"})
    with pytest.raises(Refusal) as refusal:
        start_child(parent)
    (finding,) = refusal.value.findings
    assert "`acc > 0.5`: acc is 0.1" in finding.message
    gate = finding.fix.index("`lifecycle gate recipes/parent.yaml`")
    assert gate < finding.fix.index("train that stage again") < finding.fix.index("--allow-failed-parent")
    write_gate(parent, judge(parent, ["acc > 0.05"]))
    start_child(parent)


def test_a_misspelt_parent_names_the_run_that_is_there(parent):
    with pytest.raises(Refusal) as refusal:
        start_child(parent.with_name("parnet"))
    (finding,) = refusal.value.findings
    assert (finding.code, finding.fix) == ("parent-missing", f"did you mean {parent}?")
    with pytest.raises(Refusal) as refusal:
        start_child(parent.with_name("gone"))  # close as a path, not as a name
    assert refusal.value.findings[0].fix == "run the stage that produces it"
