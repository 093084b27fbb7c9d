"""`lifecycle lineage`: the tree of a run, and the links that do not hold."""

import json
import os
import shutil
from pathlib import Path

import pytest

from lifecycle_recipes.publish.lineage import lineage, lineage_text, records
from lifecycle_recipes.record.parents import hash_file, hash_weights


@pytest.fixture
def life(tmp_path, monkeypatch, tiny_model_dir):
    """runs/a -> runs/b -> runs/c, which also names a again, and a file of rows; c is returned."""
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    parents: dict[str, dict] = {}
    for name, made_from in (("a", {}), ("b", {"model": "a"}), ("c", {"model": "b", "against": "a"})):
        place = shutil.copytree(tiny_model_dir, tmp_path / "runs" / name)
        weights = hash_weights(place)
        record = {"schema": 1, "status": "done", "stage": "sft", "gate": [], "metrics": {}, "settings": {}}
        record |= {"weights_sha256": weights, "output_dir": f"runs/{name}"}
        record |= {"parents": {role: parents[other] for role, other in made_from.items()}}
        record |= {"inputs": {"rows.jsonl": hash_file(rows)} if name == "a" else {}}
        (place / "run.json").write_text(json.dumps(record))
        parents[name] = {"path": f"runs/{name}", "relative": f"../{name}", "weights_sha256": weights}
    return "runs/c"


def test_every_run_and_file_is_in_the_tree(life):
    text = lineage_text(lineage(life))
    assert "model runs/b" in text and "├─ against runs/a" in text or "└─ against runs/a" in text
    assert text.count("file rows.jsonl") == 1 and "as above" in text
    assert text.endswith("every link holds on this disk")
    assert list(records(life))[1:] == ["runs/b", "runs/a"]


def test_what_changed_or_is_gone_is_named_once(life):
    with open("runs/a/model.safetensors", "ab") as weights:
        weights.write(b"x")
    os.unlink("rows.jsonl")
    text = lineage_text(lineage(life))
    assert "runs/a  (sft" in text and "changed since" in text and "not on this disk" in text
    assert text.splitlines()[-1] == "links that do not hold: runs/a, rows.jsonl"


def test_the_tree_is_the_same_from_another_directory(life, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert lineage_text(lineage(str(tmp_path / life))).endswith("every link holds on this disk")
    shutil.rmtree(tmp_path / "runs/b")
    assert "model runs/b  (" in lineage_text(lineage(str(tmp_path / life)))


def test_a_run_that_was_replaced_since_is_no_ancestor(life):
    """Another run at the same path: its record is not that of what was used."""
    files = {name: Path(f"runs/{name}/run.json") for name in "abc"}
    written = {name: json.loads(file.read_text()) for name, file in files.items()}
    for name in ("b", "c"):
        for parent in written[name]["parents"].values():
            parent["identity"] = "old"
    for name, identity in (("a", "old"), ("b", "new"), ("c", "old")):
        files[name].write_text(json.dumps(written[name] | {"identity": identity}))
    assert list(records(life))[1:] == ["runs/a"]
