"""Planted credentials: in nothing that `lifecycle push` sends or prints, or the push is refused by the file's name."""

import json

import pytest
from planted_keys import KEYS
from safetensors.torch import load_file, save_file

PHRASE = "correct horse battery"  # known only from the environment
WANDB = "0123456789abcdef" * 2 + "01234567"  # W&B's keys have no form of their own


def planted_in(sent: bytes) -> list[str]:
    return [name for name, key in [*KEYS.items(), ("wandb", WANDB)] if key.encode() in sent]


def test_what_is_in_the_record_and_beside_the_model_is_never_sent(hub, run, push, monkeypatch):
    for name, key in KEYS.items():
        monkeypatch.setenv(f"OTHER_{name.upper()}_TOKEN", key)
    monkeypatch.setenv("WANDB_API_KEY", WANDB)
    everything = [*KEYS.values(), WANDB]
    record = json.loads((run / "run.json").read_text())
    record["recipe"] = {"text": "".join(f"hub_token: {key}\n" for key in everything), "sha256": "0"}
    record["overrides"] = [f"--train.hub_token={key}" for key in everything]
    record["samples"] = [{"prompt": key, "reply": f"It is {key}."} for key in everything]
    record["findings"] = [
        {"code": "log-warning", "severity": "warning", "message": f"login with {key}"} for key in everything
    ]
    (run / "run.json").write_text(json.dumps(record))
    for name in ("trainer_log.jsonl", "replies.json", "trainer_state.json", "training_args.bin"):
        (run / name).write_text("\n".join(everything))
    dry = push(run, "--license", "mit", "--dry-run")
    assert dry.returncode == 0 and not planted_in(dry.stdout.encode())
    done = push(run, "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert not planted_in(b"".join(hub.received)) and not planted_in((done.stdout + done.stderr).encode())
    assert hub.repos["me/desk"].branches["main"]


@pytest.mark.parametrize(
    "secret",
    [*KEYS.values(), f"WANDB_API_KEY={WANDB}", f"wandb_api_key: '{WANDB}'", PHRASE],
    ids=[*KEYS, "wandb", "wandb, quoted", "environment"],
)
def test_a_file_of_the_model_with_a_credential_is_refused_by_name(hub, run, push, monkeypatch, secret):
    monkeypatch.setenv("MY_SECRET", PHRASE)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = run / name
        own = file.read_text()
        if name.endswith(".json"):
            file.write_text(json.dumps(json.loads(own) | {"note": secret}))
        else:
            file.write_text(f"{own}\n{{# {secret} #}}")
        done = push(run, "--license", "mit")
        assert done.returncode == 2 and "[secret]" in done.stderr and f"{name}:" in done.stderr
        assert secret not in done.stderr
        file.write_text(own)
    assert not hub.received


def test_the_notes_in_the_header_of_the_weights_are_read(hub, run, push):
    file = run / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "made_by": KEYS["huggingface"]})
    done = push(run, "--license", "mit")
    assert done.returncode == 2 and "[secret]" in done.stderr and "model.safetensors" in done.stderr
    assert not hub.received


def test_the_template_in_a_gguf_is_read(hub, run, push):
    gguf = pytest.importorskip("gguf")
    from lifecycle_recipes.record.parents import hash_weights

    (run / "gguf-f16").mkdir()
    writer = gguf.GGUFWriter(run / "gguf-f16/model.gguf", "llama")
    writer.add_chat_template(f"{{# {KEYS['anthropic']} #}}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    record = json.loads((run / "run.json").read_text())
    export = {"parity": {"gguf-f16": {}}, "bytes": {}, "adapters_merged": False, "dtype": "float32"}
    export |= {"weights_sha256": {"gguf-f16": hash_weights(run / "gguf-f16")}}
    (run / "run.json").write_text(json.dumps(record | {"stage": "export", "export": export}))
    done = push(run, "--license", "mit", "--form", "gguf-f16")
    assert done.returncode == 2 and "[secret]" in done.stderr and "model.gguf" in done.stderr
    assert not hub.received


@pytest.mark.parametrize("vendor", KEYS)
def test_rows_with_a_credential_are_refused_by_file_and_line(hub, push, tmp_path, vendor):
    from curated import curate

    texts = [f"Service {i} is described here, with its port {8000 + i}." for i in range(5)]
    source = tmp_path / "rows.jsonl"
    texts[3] += f" Log in with {KEYS[vendor]}"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    run = curate(tmp_path, [{"path": str(source), "license": "mit"}]).directory
    done = push(run, "--license", "mit")
    assert done.returncode == 2 and "[secret]" in done.stderr and "train.jsonl:" in done.stderr
    assert not hub.received and KEYS[vendor] not in done.stderr
