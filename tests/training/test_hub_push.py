"""`push_to_hub` of a training stage, with the real trainer and client against a small Hub."""

import os
import subprocess
import sys

import pytest
from hub_server import Repo, running_hub
from huggingface_hub import constants

from lifecycle_recipes.doctor.recipe_level.hub import hub_answers
from lifecycle_recipes.stages.sft import main

TOKEN = "hf_" + "aB3dE5gH7j" * 4


@pytest.fixture
def hub(monkeypatch):
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is not the small Hub's
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the address of the Hub
        for name, value in {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url}.items():
            monkeypatch.setenv(name, value)
        hub_answers.cache_clear()
        yield hub
        hub_answers.cache_clear()


@pytest.fixture
def sft(stage_recipe):
    """Runs a small SFT that pushes to me/tiny; returns its exit status."""

    def run_it(**train) -> int:
        train = {"push_to_hub": True, "hub_model_id": "me/tiny", "max_steps": 2} | train
        recipe = stage_recipe("sft", allow={"eval-overlap": "a test of something else"}, train=train)
        try:
            main([recipe])
        except SystemExit as end:
            return end.code or 0
        return 0

    return run_it


def test_the_repository_is_private_and_gets_the_whole_model_once(hub, sft, tmp_path):
    assert sft(hub_strategy="end") == 0
    repo = hub.repos["me/tiny"]
    (run,) = tmp_path.glob("sft*/run")
    assert repo.private
    assert repo.branches["main"]["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= repo.branches["main"].keys()
    assert len([line for line in hub.requests if "/commit/" in line]) == 1
    assert TOKEN.encode() not in b"".join(hub.received)


def test_a_recipe_can_make_it_public(hub, sft):
    assert sft(hub_strategy="end", hub_private_repo=False) == 0
    assert not hub.repos["me/tiny"].private


def test_a_repository_that_is_public_already_ends_the_run_before_its_first_step(hub, sft, capsys):
    """Upstream would take it as it is, and publish the model."""
    hub.repos["me/tiny"] = Repo(private=False)
    assert sft(hub_strategy="end") == 2
    captured = capsys.readouterr()
    assert "[repo-public] me/tiny" in captured.err and "step 1/2" not in captured.out
    assert hub.repos["me/tiny"].branches["main"] == {}


def test_checkpoints_go_to_their_branch(hub, sft):
    """Upstream pushes to hub_revision, which it expects to exist."""
    train = {"hub_strategy": "all_checkpoints", "hub_revision": "try-1", "hub_always_push": True}
    assert sft(save_strategy="steps", save_steps=1, **train) == 0
    repo = hub.repos["me/tiny"]
    assert repo.private and repo.branches["main"] == {}
    files = repo.branches["try-1"]
    assert {
        "model.safetensors",
        "checkpoint-1/model.safetensors",
        "checkpoint-2/optimizer.pt",
    } <= files.keys()


def test_a_refusal_of_the_hub_is_one_line_before_training(hub, sft, capsys):
    hub.faults = [("/repos/create", 403)] * 9
    assert sft(hub_strategy="end") == 2
    captured = capsys.readouterr()
    assert "403" in captured.err and "Traceback" not in captured.err and "step 1/2" not in captured.out


RANKS = """
import sys
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from lifecycle_recipes.exit_status import stage_exit
from lifecycle_recipes.training.hub_repository import prepare_hub_repository

model, out = sys.argv[1:]
hub = dict(push_to_hub=True, hub_model_id="me/tiny", hub_private_repo=True, hub_revision="try-1")
args = TrainingArguments(out, use_cpu=True, report_to=[], **hub)
trainer = Trainer(AutoModelForCausalLM.from_pretrained(model), args)
try:
    with stage_exit():
        prepare_hub_repository(trainer)
except SystemExit as end:
    print("rank", args.process_index, "ends with", end.code, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("status", "public"), [(1, False), (2, True)])
def test_all_ranks_end_with_one_status(hub, tiny_model_dir, tmp_path, status, public):
    if public:
        hub.repos["me/tiny"] = Repo(private=False)
    hub.faults = [("/branch/", 403)] * 9
    (tmp_path / "ranks.py").write_text(RANKS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "ranks.py"), str(tiny_model_dir), str(tmp_path / "out")],
        env=os.environ | {"HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    ends = {line for line in done.stdout.splitlines() if line.startswith("rank")}
    assert ends == {f"rank {rank} ends with {status}" for rank in (0, 1)}, done.stderr[-2000:]
    assert "the push" not in done.stderr
