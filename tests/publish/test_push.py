"""`lifecycle push`, with the real client against a small Hub: what arrives, what is refused, what a fault leaves."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from planted_keys import KEYS

from lifecycle_recipes.record.model_files import hash_model_files
from lifecycle_recipes.record.parents import hash_file, hash_weights


def test_what_arrives_is_the_model_with_its_chain_of_records(hub, run, push):
    done = push(run, "--license", "apache-2.0", "--branch", "v1", "--tag", "best", "--message", "first")
    assert done.returncode == 0, done.stderr
    repo = hub.repos["me/desk"]
    files = repo.branches["v1"]
    assert repo.private and repo.tags == {"best": repo.commits["v1"]} and repo.branches["main"] == {}
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= files.keys()
    assert {
        "lifecycle/07-dpo/run.json",
        "lifecycle/01-parent/run.json",
        "lifecycle/lineage.txt",
    } <= files.keys()
    assert not [path for path in files if "checkpoint" in path or "replies" in path]
    assert b"secret-host" not in b"".join(files.values())
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "text-generation"
    assert "| `task.acc` | 0.9 |" in card.text and "- passed: `task.acc >= 0.8`" in card.text


def test_a_dry_run_sends_nothing(hub, run, push):
    done = push(run, "--license", "mit", "--dry-run")
    assert done.returncode == 0 and "model.safetensors" in done.stdout and "license: mit" in done.stdout
    assert not hub.received


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "does not accept the token"),
        (403, "may not write"),
        (409, "changed the repository"),
        (400, "status 400: planted"),
    ],
)
def test_a_fault_of_the_hub_is_one_line_and_leaves_nothing(hub, run, push, status, message):
    hub.faults = [("/commit/", status)] * 9
    done = push(run, "--license", "mit")
    assert done.returncode == 1 and "[push-failed] me/desk" in done.stderr and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    assert hub.repos["me/desk"].branches["main"] == {}
    hub.faults = []
    assert push(run, "--license", "mit").returncode == 0
    assert hub.uploads == 1  # the weights were not sent twice


@pytest.mark.parametrize("fault", [429, 500, 0])
@pytest.mark.parametrize("where", ["/preupload/", "/objects/batch", "/lfs/"])
def test_a_fault_that_passes_is_waited_for_or_named(hub, run, push, no_waiting, where, fault):
    hub.faults = [(where, fault)]
    done = push(run, "--license", "mit")
    if done.returncode:
        assert done.returncode == 1 and "[push-failed]" in done.stderr
        assert hub.repos["me/desk"].branches["main"] == {}
        assert push(run, "--license", "mit").returncode == 0
    assert "model.safetensors" in hub.repos["me/desk"].branches["main"]


@pytest.fixture
def no_waiting(monkeypatch):
    """The client's own waits between its tries."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.mark.parametrize("fault", [500, 0])
@pytest.mark.parametrize("where", ["/lfs/", "/commit/"])
def test_a_push_that_is_cut_half_way_leaves_no_half_model(hub, run, push, no_waiting, where, fault):
    hub.faults = [(where, fault)] * 9
    done = push(run, "--license", "mit")
    assert done.returncode == 1 and "[push-failed] me/desk" in done.stderr and "Traceback" not in done.stderr
    assert hub.repos["me/desk"].branches["main"] == {}
    hub.faults = []
    assert push(run, "--license", "mit").returncode == 0
    assert hub.uploads == 1
    assert push(run, "--license", "mit").returncode == 0  # the same again is no second copy
    assert hub.uploads == 1


def test_of_many_files_only_those_that_did_not_arrive_are_sent_again(hub, run, push, no_waiting):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run)
    (run / "model.safetensors").unlink()
    model.save_pretrained(run, max_shard_size="100KB")
    shards = sorted(run.glob("model-*.safetensors"))
    assert len(shards) > 2
    hub.faults = [(f"/lfs/{hash_file(shards[1])}", 0)] * 9
    assert push(run, "--license", "mit").returncode == 1
    assert hub.repos["me/desk"].branches["main"] == {}
    arrived, hub.faults = hub.uploads, []
    assert push(run, "--license", "mit").returncode == 0
    assert arrived and hub.uploads == len(shards)
    assert {file.name for file in shards} <= hub.repos["me/desk"].branches["main"].keys()


def test_how_long_the_hub_asks_to_wait_is_said(hub, run, push):
    hub.faults, hub.wait = [("/commit/", 429)], "30"
    assert "wait 30 s, and run the same command again" in push(run, "--license", "mit").stderr


def test_it_is_one_commit_also_where_the_client_would_make_several(hub, run, push, monkeypatch):
    """With hf_xet, upload_folder commits a folder in parts. The small Hub does not know Xet: small files only."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("hub_server.mode_of", lambda path: "regular")
    monkeypatch.setattr("huggingface_hub._upload_pipeline.COMMIT_SIZE_SCALE", [2] * 10)
    assert push(run, "--license", "mit").returncode == 0
    assert len([line for line in hub.requests if "/commit/" in line]) == 1


def test_what_an_earlier_push_left_does_not_mix_with_the_new_model(hub, run, push):
    """from_pretrained would load an old adapter or an old single file before new shards."""
    assert push(run, "--license", "mit").returncode == 0
    files = hub.repos["me/desk"].branches["main"]
    old = ["adapter_config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    old += ["model.gguf", "Modelfile", "additional_chat_templates/old.jinja"]
    kept = ["notes.md", "other.gguf", "onnx/model.safetensors"]
    files |= dict.fromkeys([*old, "lifecycle/gone/run.json", *kept], b"old")
    done = push(run, "--license", "mit")
    assert done.returncode == 0 and not {*old, "lifecycle/gone/run.json"} & files.keys()
    assert {files[name] for name in kept} == {b"old"}
    last = done.stdout.strip().splitlines()[-1]
    assert "removed, of an earlier push: adapter_config.json, " in last and "model.gguf" in last
    assert "lifecycle/" not in last and "notes.md" not in last


def test_the_files_beside_the_weights_are_those_that_were_measured(hub, run, push):
    """Two swapped ids, another template, other stop tokens: the results in the card would be of another model."""
    record = json.loads((run / "run.json").read_text()) | {"files_sha256": hash_model_files(run)}
    (run / "run.json").write_text(json.dumps(record))
    tokenizer = json.loads((run / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    changes = {"tokenizer.json": json.dumps(tokenizer), "chat_template.jinja": "{{ messages }}"}
    changes |= {"config.json": "{}", "generation_config.json": '{"eos_token_id": 7}'}
    for name, text in changes.items():
        own = (run / name).read_bytes()
        (run / name).write_text(text)
        done = push(run, "--license", "mit")
        assert done.returncode == 2 and f"[parent-changed] {run / name}" in done.stderr, done.stderr
        (run / name).unlink()
        assert "[parent-changed]" in push(run, "--license", "mit").stderr
        (run / name).write_bytes(own)
    (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    assert f"[parent-changed] {run / 'adapter_config.json'}" in push(run, "--license", "mit").stderr
    (run / "adapter_config.json").unlink()
    assert not hub.received and push(run, "--license", "mit").returncode == 0


def test_a_record_of_two_hashes_is_compared_by_these(hub, run, push):
    record = json.loads((run / "run.json").read_text())
    record |= {"tokenizer_sha256": hash_file(run / "tokenizer.json")}
    record |= {"template_sha256": hash_file(run / "chat_template.jinja")}
    (run / "run.json").write_text(json.dumps(record))
    assert push(run, "--license", "mit").returncode == 0
    (run / "chat_template.jinja").write_text("{{ messages }}")
    done = push(run, "--license", "mit")
    assert done.returncode == 2 and f"[parent-changed] {run / 'chat_template.jinja'}" in done.stderr


def test_all_templates_of_a_tokenizer_are_pushed(hub, run, push):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ messages }} {{ tools }}"}
    tokenizer.save_pretrained(run)
    assert push(run, "--license", "mit").returncode == 0
    files = hub.repos["me/desk"].branches["main"]
    assert files["additional_chat_templates/tool_use.jinja"] == b"{{ messages }} {{ tools }}"


def test_a_tag_that_exists_is_refused_before_anything_is_sent(hub, run, push):
    assert push(run, "--license", "mit", "--tag", "v1").returncode == 0
    (run / "config.json").write_text((run / "config.json").read_text() + "\n")
    hub.requests.clear()
    done = push(run, "--license", "mit", "--tag", "v1")
    assert done.returncode == 2 and "[tag-exists]" in done.stderr
    assert not [line for line in hub.requests if "/commit/" in line]


def test_a_full_disk_while_the_push_is_staged_is_named(hub, run, push, small_disk, monkeypatch):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"samples": [{"reply": "word " * 40_000}]}))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk(64)))
    done = push(run, "--license", "mit")
    assert done.returncode == 1 and "[disk-full]" in done.stderr and "Traceback" not in done.stderr
    assert not hub.received


def test_a_public_repository_gets_no_private_model(hub, run, push):
    assert push(run, "--license", "mit", "--public").returncode == 0
    assert not hub.repos["me/desk"].private
    before = dict(hub.repos["me/desk"].branches["main"])
    (run / "config.json").write_text((run / "config.json").read_text() + "\n")
    done = push(run, "--license", "mit")
    assert done.returncode == 2 and "[repo-public]" in done.stderr
    assert hub.repos["me/desk"].branches["main"] == before


def test_a_private_repository_is_not_made_public(hub, run, push):
    assert push(run, "--license", "mit").returncode == 0
    done = push(run, "--license", "mit", "--public")
    assert done.returncode == 0 and "private, as it was before --public" in done.stdout
    assert hub.repos["me/desk"].private


@pytest.mark.parametrize("where", ["/repos/create", "/preupload/", "/validate-yaml"])
@pytest.mark.parametrize(("status", "message"), [(401, "does not accept the token"), (403, "may not write")])
def test_a_refusal_at_each_step_is_one_line(hub, run, push, where, status, message):
    hub.faults = [(where, status)] * 9
    done = push(run, "--license", "mit")
    assert done.returncode == 1 and "[push-failed] me/desk" in done.stderr and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    assert "me/desk" not in hub.repos or hub.repos["me/desk"].branches["main"] == {}


def test_the_reason_of_the_hub_is_said_and_a_repetition_advised_only_if_it_helps(hub, run, push):
    for status, again in ((400, False), (422, False), (403, False), (409, True), (500, True)):
        hub.faults = [("/commit/", status)] * 9
        done = push(run, "--license", "mit")
        assert done.returncode == 1 and "planted" in done.stderr
        assert ("run the same command again" in done.stderr) == again, status


def test_a_card_that_the_hub_does_not_accept_makes_no_repository(hub, run, push):
    hub.card_fault = f'"license" must be one of [apache-2.0, mit, ...]\n{KEYS["huggingface"]}'
    done = push(run, "--license", "apache2")
    assert done.returncode == 1 and '"license" must be one of' in done.stderr and "--license" in done.stderr
    assert "run the same command" not in done.stderr and KEYS["huggingface"] not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2 and not hub.repos


def test_what_is_not_published(hub, run, push):
    def refused(code: str, status: int, *arguments: str) -> None:
        done = push(run, *arguments)
        assert done.returncode == status and f"[{code}]" in done.stderr, done.stderr

    refused("license-unknown", 2)
    refused("bad-value", 2, "--license", "MIT licence")
    refused("bad-value", 2, "--license", "mit", "--repo", "desk")
    for form in ("int8", "checkpoint-5", "../01-parent"):
        refused("unknown-form", 2, "--license", "mit", "--form", form)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"weights_sha256": "0" * 64}))
    refused("parent-changed", 2, "--license", "mit")
    (run / "run.json").write_text(json.dumps(record | {"gate": ["task.acc >= 0.95"]}))
    refused("gate-failed", 3, "--license", "mit")
    (run / "run.json").write_text(json.dumps(record | {"status": "stopped"}))
    refused("parent-unfinished", 2, "--license", "mit")
    (run / "run.json").write_text(json.dumps(record))
    (run / "pytorch_model.bin").write_bytes(b"x")
    refused("saved-pickled", 2, "--license", "mit")
    (run / "pytorch_model.bin").unlink()
    weights = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(weights[:100])
    refused("parent-unreadable", 2, "--license", "mit")
    (run / "model.safetensors").write_bytes(weights)
    (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(run)}))
    refused("push-local-base", 2, "--license", "mit")
    assert not hub.received


def test_offline_is_said_before_anything_is_tried(run, push, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = push(run, "--license", "mit")
    assert done.returncode == 2 and "[push-offline]" in done.stderr and "HF_HUB_OFFLINE=0" in done.stderr
    assert push(run, "--license", "mit", "--dry-run").returncode == 0


def test_the_form_of_an_export_is_pushed_if_it_is_the_one_that_was_compared(hub, run, push):
    shutil.copytree(run, run / "int8", ignore=shutil.ignore_patterns("run.json", "checkpoint-*"))
    record = json.loads((run / "run.json").read_text())
    export = {
        "of_stage": "dpo",
        "adapters_merged": False,
        "dtype": "float32",
        "bytes": {"merged": 2e6, "int8": 1e6},
    }
    export |= {"parity": {"merged": {}, "int8": {}}, "weights_sha256": {"int8": hash_weights(run / "int8")}}
    export |= {"files_sha256": {"int8": hash_model_files(run / "int8")}}
    export |= {"tokens": 90, "prompts": 6}
    metrics = {"task.acc": 0.9, "int8.task.acc": 0.7, "int8.agreement": 0.99}
    (run / "run.json").write_text(
        json.dumps(record | {"stage": "export", "export": export, "metrics": metrics})
    )
    assert push(run, "--license", "mit", "--form", "int8").returncode == 0
    text = hub.repos["me/desk"].branches["main"]["README.md"].decode()
    assert "This is the form int8" in text and "| `task.acc` | 0.7 |" in text and "bitsandbytes" in text
    assert "`agreement` is the share of the 90 tokens" in text and "the last training stage is dpo" in text
    config = run / "int8/config.json"
    config.write_text(config.read_text() + "\n")
    assert f"[parent-changed] {config}" in push(run, "--license", "mit", "--form", "int8").stderr
    config.write_text(config.read_text()[:-1])
    weights = run / "int8/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "[parent-changed]" in push(run, "--license", "mit", "--form", "int8").stderr


def test_a_run_that_is_the_working_directory_has_its_name(hub, run, push, monkeypatch):
    monkeypatch.chdir(run)
    assert push(Path("."), "--license", "mit").returncode == 0
    files = hub.repos["me/desk"].branches["main"]
    assert "lifecycle/07-dpo/run.json" in files and "lifecycle/run.json" not in files
    assert "| 07-dpo | dpo |" in files["README.md"].decode()


def test_the_card_says_what_it_does_not_know(run, push, tmp_path):
    """A directory without its parents: not "from random weights"."""
    moved = shutil.move(run, tmp_path / "elsewhere/exported")
    shutil.rmtree(tmp_path / "01-parent")
    text = push(Path(moved), "--license", "mit", "--dry-run").stdout
    assert "random weights" not in text and "01-parent, whose own record is not known" in text
    assert "not on this disk" in text and str(tmp_path) not in text.replace(str(tmp_path / "01-parent"), "")


def test_a_failed_gate_that_is_allowed_stands_in_the_card(hub, run, push):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"gate": ["task.acc >= 0.95"]}))
    assert push(run, "--license", "mit", "--allow-failed-gate").returncode == 0
    text = hub.repos["me/desk"].branches["main"]["README.md"].decode()
    assert "Published although its gate failed" in text and "`task.acc >= 0.95`" in text
