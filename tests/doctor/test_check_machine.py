"""Level 1: what this machine, the Hub and the output directory have against a recipe."""

import json
import os
import shutil
import ssl
import time
import urllib.error
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
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
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
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    assert codes("sft.yaml", *arguments) == []


def test_a_hub_that_does_not_answer_is_asked_once_and_then_off(cached, monkeypatch):
    asked = []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "SILENT", set())
    monkeypatch.setattr(hub, "hub_answers", lambda: asked.append(1))
    for _ in range(2):
        (found,) = doctor.check("sft.yaml", ["--model.model_name_or_path", "me/other"], upto=1).findings
        assert found.code == "not-cached" and found.message.endswith("does not answer")
    assert asked == [1] and hub.is_offline()
    # Later findings blame the network, not the variable that the check has set.
    (found,) = doctor.check("sft.yaml", ["--train.push_to_hub", "true"], upto=1).findings
    assert found.code == "push-offline" and found.message.endswith("does not answer")
    assert found.fix == "check the network or HF_ENDPOINT"


def test_a_launch_is_checked_without_the_network_for_its_rows_only(cached, monkeypatch):
    """A life checks all its stages in one process, and starts each with the environment that it has itself."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "SILENT", set())
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    seen = []
    monkeypatch.setattr(doctor, "find_in_data", lambda *_, **__: seen.append(hub.is_offline()) or [])
    raw = read_recipe("sft.yaml", [])
    doctor.check_launch(raw)
    assert seen == [True] and not hub.is_offline()
    doctor.refuse_launch(raw)  # this process becomes the stage
    assert hub.is_offline()


@pytest.mark.parametrize(
    ("answer", "answers"),
    [
        (lambda request, timeout: None, True),
        (lambda request, timeout: raise_(urllib.error.HTTPError("url", 403, "no", {}, None)), True),
        (lambda request, timeout: raise_(urllib.error.URLError(ssl.SSLError("certificate"))), True),
        (lambda request, timeout: raise_(urllib.error.URLError(OSError("no route"))), False),
        (lambda request, timeout: time.sleep(1), False),
    ],
    ids=["200", "403", "certificate", "no route", "silence"],
)
def test_what_counts_as_an_answer_of_the_hub(monkeypatch, answer, answers):
    monkeypatch.setattr(hub, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(hub.urllib.request, "urlopen", answer)
    assert hub.hub_answers.__wrapped__() is answers


def raise_(error: Exception):
    raise error


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ("tasks: [gsm8k]", [("task-not-cached", "warning")]),
        ("tasks: [arc_easy]", []),  # in the cache
        ("tasks: [own], include_path: tasks", [("task-not-cached", "warning")]),
        ("tasks: [local], include_path: tasks", []),
    ],
)
def test_datasets_of_tasks_that_are_not_in_the_cache(cached, config, found):
    (cached.parent / "datasets/allenai___ai2_arc/ARC-Easy").mkdir(parents=True)
    Path("tasks").mkdir()
    task = "task: {0}\noutput_type: multiple_choice\ntest_split: test\ndataset_path: {1}\n"
    Path("tasks/own.yaml").write_text(task.format("own", "me/questions"))
    Path("tasks/local.yaml").write_text(task.format("local", "json"))
    assert codes("sft.yaml", "--evaluate", f"{{{config}}}") == found


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({}, 1),
        ({"WANDB_API_KEY": "k"}, 0),
        ({"WANDB_MODE": "offline"}, 0),
        ({"WANDB_MODE": "online"}, 1),
        ({"WANDB_DISABLED": "true"}, 0),
        ({"NETRC": "mine"}, 0),
        ({"NETRC": "mine", "WANDB_BASE_URL": "https://wandb.example.org"}, 1),
    ],
    ids=str,
)
def test_a_missing_wandb_login(recipe_here, monkeypatch, setting, found):
    Path("mine").write_text("machine api.wandb.ai\n  login user\n  password k\n")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(recipe_here))
    monkeypatch.setenv("NETRC", "none")
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine, "_packages", lambda raw: [])
    assert codes("sft.yaml", "--train.report_to", "wandb") == [("no-wandb-login", "warning")] * found
    assert codes("sft.yaml", "--train.report_to", "tensorboard") == []


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, ["reward-head-missing"]),
        (
            {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}},
            ["reward-head-missing"],
        ),
        ({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}, []),
        ({"architectures": ["LlamaForCausalLM"]}, ["reward-head-missing"]),
        ({"architectures": ["MyRewardModel"]}, []),
    ],
)
def test_a_scorer_has_one_output(recipe_here, config, code):
    shutil.copytree("parent", "scorer")
    Path("scorer/config.json").write_text(json.dumps(config))
    write(
        "stage: ppo\nmodel: {model_name_or_path: parent}\nreward: {model_name_or_path: scorer}\n"
        "data: {sources: [{path: rows.jsonl, columns: {prompt: messages}}]}\n"
        "train: {output_dir: run, max_steps: 2, report_to: none}\n"
    )
    found = [f for f in doctor.check("sft.yaml", upto=1).findings if "head" in f.code]
    assert [f.code for f in found] == code
    assert all("scorer" in f.message and f.where.startswith("sft.yaml:3") for f in found)


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
    ]
    shutil.move("parent", "all")
    Path("all2").mkdir()
    shutil.move("all", "all2/checkpoint-5")
    arguments = ["--model.model_name_or_path", "all2/checkpoint-5", "--train.output_dir", "all2"]
    assert ("output-dir-is-parent", "error") in codes("sft.yaml", *arguments)
    assert codes("sft.yaml", *arguments[:2], "--train.output_dir", "all2/checkpoint-5/next") == []


def test_a_directory_in_use_is_refused_before_anything_is_launched(recipe_here):
    from lifecycle_recipes.doctor.recipe_level.output import find_finished
    from lifecycle_recipes.record.run import Run

    raw = read_recipe("sft.yaml", [])
    with Run(raw):
        assert [f.code for f in find_finished(raw)] == ["output-dir-busy"]
    assert [f.code for f in find_finished(raw)] == ["output-dir-finished"]


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
    assert "no manifest.json" in found.message


def test_an_unreadable_record_is_named_as_one(recipe_here):
    Path("run").mkdir()
    shutil.copy("parent/model.safetensors", "run")
    Path("run/run.json").write_text('{"status": "do')
    (found,) = doctor.check("sft.yaml", upto=1).findings
    assert (found.code, found.severity, found.where) == ("bad-record", "warning", "run/run.json")
    assert "--replace" in found.fix and codes("sft.yaml", "--replace") == []
    with pytest.raises(Refusal, match="bad-record"):
        doctor.refuse_launch(read_recipe("sft.yaml", []))


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
