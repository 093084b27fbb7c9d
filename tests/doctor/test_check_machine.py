"""Level 1: what this machine, the Hub and the output directory have against a recipe."""

import json
import shutil
from pathlib import Path

import pytest
from checked import RECIPE, codes, write

from lifecycle_recipes.doctor import check as doctor
from lifecycle_recipes.doctor.recipe_level import hub, machine, output
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.read import read_recipe
from lifecycle_recipes.record.file import read_record

# The machine and the Hub


def test_packages_that_are_not_installed(recipe_here, monkeypatch):
    assert codes("sft.yaml", "--train.report_to", "[tensorboard, swanlab]") == [("missing-package", "error")]
    assert codes("sft.yaml", "--train.optim", "adamw_torch") == []
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    arguments = ["--model.use_peft", "true", "--model.load_in_4bit", "true"]
    assert (
        codes("sft.yaml", *arguments, "--attn_implementation", "flash_attention_2").count(
            ("missing-package", "error")
        )
        == 2
    )


def test_bf16_without_hardware(recipe_here, monkeypatch):
    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    monkeypatch.setattr(machine, "_nvidia_models", list)
    assert codes("sft.yaml", "--train.bf16", "true") == [("no-bf16-hardware", "warning")]
    assert codes("sft.yaml", "--train.bf16", "false") == []
    for model, found in (
        ("Tesla T4", 1),
        ("NVIDIA H200", 0),
        ("NVIDIA GeForce RTX 4090", 0),
        ("Tesla V100-SXM2", 1),
    ):
        monkeypatch.setattr(machine, "_nvidia_models", lambda model=model: [model])
        assert len(codes("sft.yaml", "--train.bf16", "true")) == found, model


def test_pushing_needs_the_network_and_a_token(recipe_here, monkeypatch):
    push = ["--train.push_to_hub", "true"]
    assert codes("sft.yaml", *push) == [("push-offline", "warning")]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(recipe_here))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert codes("sft.yaml", *push) == [("no-hub-token", "warning")]
    monkeypatch.setenv("HF_TOKEN", "given")
    assert codes("sft.yaml", *push) == []


@pytest.fixture
def cached(recipe_here, monkeypatch):
    """A Hub cache with the model me/model at `main` and the dataset me/rows."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(recipe_here / "hf"))
    for name in ("models--me--model", "datasets--me--rows"):
        (recipe_here / "hf/hub" / name / "snapshots" / "c0ffee").mkdir(parents=True)
        (recipe_here / "hf/hub" / name / "refs").mkdir()
        (recipe_here / "hf/hub" / name / "refs/main").write_text("c0ffee")
    write(RECIPE.replace("rows.jsonl", "me/rows").replace("parent", "me/model"))
    return recipe_here / "hf/hub"


def test_ids_that_are_not_in_the_cache_while_the_hub_is_off(cached, monkeypatch):
    assert codes() == []
    assert codes("sft.yaml", "--model_revision", "v9") == [("missing-revision", "warning")]
    assert codes("sft.yaml", "--model_revision", "c0ffee") == []
    arguments = ["--model.model_name_or_path", "me/other"]
    report = doctor.check("sft.yaml", arguments)
    assert [(f.code, f.where) for f in report.findings] == [("not-cached", "--model.model_name_or_path")]
    assert report.reached == 1 and report.stopped == "level 2 was not checked: not-cached"
    with pytest.raises(Refusal, match="not-cached"):
        doctor.check_recipe(read_recipe("sft.yaml", arguments))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert codes("sft.yaml", *arguments) == []


def test_licences_and_remote_code(cached):
    card = cached / "datasets--me--rows/snapshots/c0ffee/README.md"
    for licence, found in (
        ("cc-by-nc-4.0", 1),
        ("[mit, cc-by-nc-sa-4.0]", 1),
        ("apache-2.0", 0),
        ("ncsa", 0),
    ):
        card.write_text(f"---\nlicense: {licence}\n---\n# Rows\n")
        assert codes().count(("license-non-commercial", "warning")) == found, licence
    card.write_text("---\nlicense: [unclosed\n---\n")
    assert hub.licence_of(card) is None and hub.licence_of(cached / "none.md") is None
    remote = ["--train.trust_remote_code", "true"]
    assert codes("sft.yaml", *remote) == [("remote-code", "warning")]
    pinned = ["--pinned", "{me/model: " + "0a" * 20 + "}"]
    assert ("remote-code", "warning") not in codes("sft.yaml", *remote, *pinned)


# The output directory


def test_the_output_directory_is_not_the_parent(recipe_here):
    assert codes("sft.yaml", "--train.output_dir", "parent") == [
        ("output-dir-is-parent", "error"),
        ("output-dir-not-ours", "warning"),
    ]
    shutil.move("parent", "all")
    Path("all2").mkdir()
    shutil.move("all", "all2/checkpoint-5")
    arguments = ["--model.model_name_or_path", "all2/checkpoint-5", "--train.output_dir", "all2"]
    assert ("output-dir-is-parent", "error") in codes("sft.yaml", *arguments)
    assert codes("sft.yaml", *arguments[:2], "--train.output_dir", "all2/checkpoint-5/next") == []


def test_an_output_directory_that_holds_something(recipe_here):
    from lifecycle_recipes.record.run import Run

    def finish(*overrides):
        raw = read_recipe("sft.yaml", list(overrides))
        with Run(raw):
            shutil.copy("parent/model.safetensors", "run")

    finish()
    assert codes() == []  # this very run is done
    assert codes("sft.yaml", "--max_steps", "3") == [("output-dir-finished", "warning")]
    assert codes("sft.yaml", "--max_steps", "3", "--replace") == []
    record = read_record("run") | {"status": "stopped"}
    Path("run/run.json").write_text(json.dumps(record))
    assert codes("sft.yaml", "--max_steps", "3") == [("output-dir-other-run", "warning")]
    Path("run/checkpoint-1").mkdir()
    (found,) = doctor.check("sft.yaml", upto=1).findings
    assert (found.code, found.where) == ("checkpoint-incomplete", "run/checkpoint-1")
    assert "no trainer_state.json" in found.message


def test_too_little_disk_for_the_checkpoints(recipe_here, monkeypatch):
    weights = sum(f.stat().st_size for f in Path("parent").glob("*.safetensors"))
    kept = ["--train.save_strategy", "steps", "--train.save_steps", "1", "--train.max_steps", "9"]

    def needed(*overrides):
        return output.needed_bytes(read_recipe("sft.yaml", list(overrides)))[0]

    assert needed() == weights
    assert needed(*kept) == weights * (1 + 9 * 3)
    assert needed(*kept, "--train.save_total_limit", "1") == weights * (1 + 2 * 3)
    assert needed(*kept, "--train.save_only_model", "true") == weights * (1 + 9)
    assert needed(*kept, "--train.optim", "sgd") == weights * (1 + 9)
    assert needed(*kept, "--model.dtype", "bfloat16") == weights * (1 + 9 * 3) / 2
    assert needed(*kept, "--model.use_peft", "true") == 0
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: type("U", (), {"free": weights * 20})())
    assert codes("sft.yaml", *kept) == [("disk-too-small", "warning")]
    assert codes() == []
    with pytest.raises(Refusal, match="disk-too-small"):
        doctor.check_recipe(read_recipe("sft.yaml", kept))
