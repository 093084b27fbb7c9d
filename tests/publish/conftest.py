"""A small Hub, a finished run, and `lifecycle push` between them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import running_hub
from huggingface_hub import constants
from planted_keys import KEYS

from lifecycle_recipes.cli import main


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def run(tmp_path, tiny_model_dir) -> Path:
    """A finished run with a parent, and what is never pushed beside the model."""
    parent = tmp_path / "01-parent"
    run = shutil.copytree(tiny_model_dir, tmp_path / "07-dpo")
    for place, more in (
        (parent, {}),
        (run, {"parents": {"model": {"path": str(parent), "relative": "../01-parent"}}}),
    ):
        place.mkdir(exist_ok=True)
        record = {
            "schema": 1,
            "status": "done",
            "stage": "dpo",
            "identity": "1" * 64,
            "metrics": {"task.acc": 0.9},
        }
        record |= {
            "gate": ["task.acc >= 0.8"],
            "settings": {},
            "process": {"host": "secret-host"},
            "wall_seconds": 60.0,
        }
        (place / "run.json").write_text(json.dumps(record | more))
    (run / "checkpoint-5").mkdir()
    (run / "checkpoint-5/model.safetensors").write_bytes(b"x")
    (run / "replies.json").write_text("{}")
    return run


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def push(hub, monkeypatch, capsys, tmp_path):
    """Runs `lifecycle push` against the small Hub."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is not the small Hub's
    monkeypatch.setenv("HF_TOKEN", KEYS["huggingface"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def run_it(run: Path, *arguments: str) -> Done:
        with pytest.raises(SystemExit) as end:
            repo = () if "--repo" in arguments else ("--repo", "me/desk")
            main(["push", str(run), *repo, *arguments])
        return Done(end.value.code or 0, *capsys.readouterr())

    return run_it
