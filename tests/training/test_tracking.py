"""`report_to` as upstream has it: one run logs to an offline wandb run and to tensorboard, and only there."""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from base64 import b64encode
from types import SimpleNamespace

import pytest

WANDB_KEY, HUB_TOKEN = "0123456789abcdef" * 2 + "deadbeef", "hf_" + "SecretOfTheHub" * 2
RECIPE = """stage: sft
model: {{model_name_or_path: {model}}}
data: {{sources: [{{path: rows.jsonl}}]}}
train:
  output_dir: run
  max_steps: 2
  per_device_train_batch_size: 4
  logging_steps: 1
  save_strategy: "no"
  activation_checkpointing: false
  run_name: tiny
  report_to: [wandb, tensorboard]
"""


@pytest.fixture(scope="module")
def listener():
    """A port that stands for the whole internet: everything that would leave is sent here, and counted."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def count():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                calls.append(connection.recv(200))
                connection.close()

        threading.Thread(target=count, daemon=True).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.getsockname()[1]}", calls=calls)
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, tiny_model_dir, tiny_chat_rows, listener):
    """The directory in which a two-step SFT ran with both trackers."""
    here = tmp_path_factory.mktemp("tracked")
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_chat_rows))
    (here / "sft.yaml").write_text(RECIPE.format(model=tiny_model_dir))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") and not k.endswith("_proxy")}
    away = {"WANDB_BASE_URL": listener.url, **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), listener.url)}
    # What wandb keeps for the user (its cache, its settings) stays in the test's directory too.
    home = {f"WANDB_{name}_DIR": str(here / "user") for name in ("CONFIG", "CACHE", "DATA")}
    secrets = {"WANDB_API_KEY": WANDB_KEY, "HF_TOKEN": HUB_TOKEN}
    done = subprocess.run(
        [sys.executable, "-m", "lifecycle_recipes.cli", "run", "sft.yaml", "--layout", "cpu"],
        cwd=here,
        env={**clean, **away, **home, **secrets, "WANDB_MODE": "offline", "NO_PROXY": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return here


def records(file):
    """The protobuf records of a .wandb file: a header of 7 bytes, then LevelDB's log format.

    Blocks of 32 KiB; a record is crc (4 bytes), length (2), type (1: whole, 2: first, 3: middle, 4: last).
    """
    from wandb.proto import wandb_internal_pb2

    content, at, parts = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_an_offline_wandb_run_holds_the_losses_and_the_configuration(tracked):
    (file,) = tracked.glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    losses = [row["train/loss"] for row in history if "train/loss" in row]
    state = json.loads((tracked / "run/trainer_state.json").read_text())
    assert losses == [row["loss"] for row in state["log_history"] if "loss" in row]
    assert len(losses) == 2 and all(loss > 0 for loss in losses)
    config = {item.key for record in found if record.HasField("run") for item in record.run.config.update}
    config |= {item.key for record in found if record.HasField("config") for item in record.config.update}
    assert {"max_steps", "learning_rate"} <= config


def test_tensorboard_has_the_same_losses(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = tracked.glob("**/events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    state = json.loads((tracked / "run/trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)


def test_no_secret_is_in_any_file_of_the_run(tracked):
    written = [f for f in tracked.rglob("*") if f.is_file()]
    assert len(written) > 5
    for file in written:
        content = file.read_bytes()
        for secret in (WANDB_KEY, HUB_TOKEN, b64encode(f"api:{WANDB_KEY}".encode()).decode()):
            assert secret.encode() not in content, file


def test_nothing_is_sent(tracked, listener):
    assert listener.calls == []
