"""Stopping, resuming, failing and saving: `train_and_save` around a real Trainer."""

import errno
import json
import math
import os
import signal

import pytest
import torch
from safetensors import SafetensorError
from small_trainer import make_trainer, status, train
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    modeling_utils,
    trainer_callback,
)

from lifecycle_recipes.exit_status import stage_exit
from lifecycle_recipes.finding import FAILED, Refusal
from lifecycle_recipes.record.run import Stopped
from lifecycle_recipes.training.save import Saves
from lifecycle_recipes.training.train import end_replies_at


class AtStep(TrainerCallback):
    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.act(model)


def saved(directory):
    return AutoModelForCausalLM.from_pretrained(directory).state_dict()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_resuming_ends_at_the_same_weights(tmp_path, tiny_model_dir, number):
    whole = train(make_trainer(tiny_model_dir, tmp_path / "whole"))
    kill = AtStep(3, lambda model: os.kill(os.getpid(), number))
    with pytest.raises(Stopped, match="step 3 of 6"):
        train(make_trainer(tiny_model_dir, tmp_path / "cut", kill))
    assert status(tmp_path / "cut") == "stopped"
    assert (tmp_path / "cut/checkpoint-3/trainer_state.json").is_file()
    assert not (tmp_path / "cut/model.safetensors").exists()
    again = train(make_trainer(tiny_model_dir, tmp_path / "cut"))
    assert again.resume_from == str(tmp_path / "cut/checkpoint-3")
    ours, theirs = saved(tmp_path / "cut"), saved(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert again.metrics == whole.metrics and again.metrics["steps"] == 6
    tokens = [json.loads((tmp_path / d / "run.json").read_text())["tokens"] for d in ("cut", "whole")]
    assert tokens[0] == tokens[1]


def no_step(model):
    raise AssertionError("trained on past the last step")


def test_a_restart_after_the_last_step_trains_no_further(tmp_path, tiny_model_dir, monkeypatch):
    """Of 12 steps an epoch: upstream would go on with the seventh."""
    whole = train(make_trainer(tiny_model_dir, tmp_path / "run", save_strategy="steps", save_steps=6))
    before = saved(tmp_path / "run")
    set_record(tmp_path / "run", status="running", trained=None)
    again = train(
        make_trainer(
            tiny_model_dir, tmp_path / "run", AtStep(7, no_step), save_strategy="steps", save_steps=6
        )
    )
    assert again.resume_from == str(tmp_path / "run/checkpoint-6") and not again.trained
    assert again.metrics == whole.metrics and again.metrics["train_loss"] > 0
    assert all(torch.equal(before[k], v) for k, v in saved(tmp_path / "run").items())


def set_record(directory, **fields):
    record = json.loads((directory / "run.json").read_text()) | fields
    record["process"]["pid"] = 0
    (directory / "run.json").write_text(json.dumps(record))


def test_a_signal_in_the_final_save_lets_it_finish(tmp_path, tiny_model_dir, monkeypatch):
    finish = Saves.finish

    def signalled(self, *parts):
        os.kill(os.getpid(), signal.SIGTERM)
        finish(self, *parts)

    monkeypatch.setattr(Saves, "finish", signalled)
    with pytest.raises(Stopped, match="before its evaluation"):
        train(make_trainer(tiny_model_dir, tmp_path / "run"))
    assert status(tmp_path / "run") == "stopped"
    again = train(make_trainer(tiny_model_dir, tmp_path / "run", AtStep(1, no_step)))
    assert again.trained and again.metrics["steps"] == 6 and status(tmp_path / "run") == "done"


def test_signal_handlers_are_put_back(tmp_path, tiny_model_dir):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("logging_steps", [1, 100])
def test_a_run_that_diverges_stops_and_saves_nothing(tmp_path, tiny_model_dir, logging_steps):
    def poison(model):
        with torch.no_grad():
            model.lm_head.weight[0, 0] = math.nan

    trainer = make_trainer(tiny_model_dir, tmp_path / "run", AtStep(2, poison), logging_steps=logging_steps)
    with pytest.raises(Refusal, match="non-finite") as refusal:
        train(trainer)
    assert refusal.value.status == FAILED
    if logging_steps == 1:
        # By its loss, which upstream would log as a healthy number.
        assert " loss is nan at step 3" in str(refusal.value) and trainer.state.global_step == 3
    assert status(tmp_path / "run").startswith("failed: [non-finite]")
    assert not list((tmp_path / "run").glob("*.safetensors"))


@pytest.mark.parametrize(("kilobytes", "saves"), [(600, "no"), (1100, "steps")], ids=["weights", "optimizer"])
def test_a_really_full_disk_is_named_and_the_record_says_so(tiny_model_dir, small_disk, kilobytes, saves):
    output_dir = small_disk(kilobytes) / "run"
    trainer = make_trainer(tiny_model_dir, output_dir, max_steps=2, save_strategy=saves, save_steps=1)
    with pytest.raises(Refusal, match="disk-full"):
        train(trainer)
    assert status(output_dir).startswith("failed: [disk-full]")


SAFETENSORS = (modeling_utils, "safe_save_file")
# The file that no longer fits -> what writes it, and what that raises on a full disk.
FULL = {
    "model.safetensors": (
        SAFETENSORS,
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ),
    "checkpoint-2/model.safetensors": (
        SAFETENSORS,
        SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
    ),
    "checkpoint-2/optimizer.pt": (
        (torch, "save"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ),
    "checkpoint-2/rng_state.pth": (
        (torch, "save"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5312 vs 5204"),
    ),
    "checkpoint-2/trainer_state.json": ((trainer_callback, "open"), OSError(errno.ENOSPC, "full")),
    "checkpoint-2/scheduler.pt": ((torch, "save"), OSError(errno.EDQUOT, "quota")),
}


@pytest.mark.parametrize(("file", "writer", "error"), [(f, *how) for f, how in FULL.items()], ids=FULL)
def test_a_full_disk_is_named_and_the_checkpoint_before_it_resumes(
    tmp_path, tiny_model_dir, monkeypatch, capsys, file, writer, error
):
    output_dir = tmp_path / "run"
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    write = getattr(*writer, open)

    def write_what_fits(*arguments, **more):
        if str(output_dir / file) in [a for a in arguments if isinstance(a, str)]:
            if writer == (torch, "save"):
                (output_dir / file).touch()  # it leaves what fits
            raise error
        return write(*arguments, **more)

    with monkeypatch.context() as full:
        full.setattr(*writer, write_what_fits, raising=False)  # `open` is a builtin there
        with pytest.raises(SystemExit) as left, stage_exit():
            train(make_trainer(tiny_model_dir, output_dir, **options))
    assert left.value.code == FAILED
    said = capsys.readouterr().err
    assert f"error [disk-full] {output_dir}: " in said and "Traceback" not in said
    assert status(output_dir).startswith("failed: [disk-full]")
    again = train(make_trainer(tiny_model_dir, output_dir, **options))
    whole = "checkpoint-1" if "/" in file else "checkpoint-3"
    assert again.resume_from == str(output_dir / whole)
    train(make_trainer(tiny_model_dir, tmp_path / "whole", max_steps=3))
    ours, theirs = saved(output_dir), saved(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_another_error_while_saving_is_not_called_a_full_disk(tmp_path, tiny_model_dir, monkeypatch):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1)
    monkeypatch.setattr(trainer, "save_model", lambda *a: [][0])
    with pytest.raises(IndexError):
        train(trainer)


def test_saving_that_writes_nothing_is_a_failure(tmp_path, tiny_model_dir, monkeypatch):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1)
    monkeypatch.setattr(trainer, "save_model", lambda *a: None)
    with pytest.raises(Refusal, match="nothing-saved"):
        train(trainer)


def test_generation_keeps_the_parents_ends_and_gains_the_tokenizers(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    end_replies_at(model, tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 1
    tokenizer.eos_token = "<|im_end|>"
    end_replies_at(model, tokenizer)
    assert model.generation_config.eos_token_id == [1, 3] and model.config.eos_token_id == 3
