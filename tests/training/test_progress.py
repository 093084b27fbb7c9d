"""What a run shows while it trains, and which evaluations it makes."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
from fake_runs import fake_raw
from peft import LoraConfig, get_peft_model
from small_trainer import make_trainer, plain_recipe, train
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from lifecycle_recipes.record.file import read_record
from lifecycle_recipes.record.run import Stopped
from lifecycle_recipes.training.progress import Bar, LogLines, count_parameters, show_progress, tokens_per_row
from lifecycle_recipes.training.upstream_files import no_wrong_card

EVAL_ROWS = [{"input_ids": [1, 5, 7], "labels": [1, 5, 7]}] * 4
EPOCHS = {"eval_strategy": "epoch", "max_steps": 24, "per_device_train_batch_size": 2}  # 12 steps an epoch


class AtStep(TrainerCallback):
    """Sends itself SIGINT at a step; counts evaluations by step."""

    def __init__(self, step=None):
        self.step, self.evaluated = step, []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated.append(state.global_step)


def with_eval(tiny_model_dir, directory, callback, **options):
    return make_trainer(tiny_model_dir, directory, callback, EVAL_ROWS, **options)


@pytest.mark.parametrize(
    ("terminal", "flags", "variable", "settings", "expected"),
    [
        (True, [], None, {}, {Bar, LogLines}),
        (False, [], None, {}, {LogLines}),
        (True, ["verbose"], None, {}, {ProgressCallback}),
        (False, ["verbose"], None, {}, {PrinterCallback}),
        (False, [], "dict", {}, {PrinterCallback}),
        (True, [], "dict", {}, {Bar, LogLines}),
        (True, [], None, {"disable_tqdm": True}, {LogLines}),
    ],
)
def test_who_prints(tiny_model_dir, tmp_path, monkeypatch, terminal, flags, variable, settings, expected):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.delenv("LIFECYCLE_LOG", raising=False)
    if variable:
        monkeypatch.setenv("LIFECYCLE_LOG", variable)
    trainer, recipe = make_trainer(tiny_model_dir, tmp_path / "run"), plain_recipe(tmp_path / "run")
    recipe.raw = fake_raw(tmp_path / "run", {"train": {"output_dir": "x"} | settings}, flags)
    show_progress(trainer, recipe)
    kinds = {type(callback) for callback in trainer.callback_handler.callbacks}
    assert kinds & {Bar, LogLines, ProgressCallback, PrinterCallback} == expected


def test_lines_without_a_terminal(tiny_model_dir, tmp_path, capsys):
    train(with_eval(tiny_model_dir, tmp_path / "run", None, logging_steps=3))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("training ") and "24 rows, 6 steps of 2 rows, about 10 tokens per step" in first
    assert [line.split("  ")[0] for line in lines] == ["step 3/6", "step 6/6", "eval 6/6"]
    assert "left" in lines[0] and "tok/s" in lines[0] and "{" not in "".join(lines)


def test_upstreams_dictionaries_on_request(tiny_model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LIFECYCLE_LOG", "dict")
    train(make_trainer(tiny_model_dir, tmp_path / "run", logging_steps=3))
    assert [line[0] for line in capsys.readouterr().out.splitlines()] == ["{", "{", "{"]


def test_other_ranks_print_nothing(tiny_model_dir, tmp_path, capsys):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run")
    trainer.state.is_world_process_zero = False
    lines = LogLines(trainer, plain_recipe(tmp_path / "run"))
    lines.on_train_begin(trainer.args, trainer.state, trainer.control)
    lines.on_log(trainer.args, trainer.state, trainer.control, {"loss": 1.0})
    assert capsys.readouterr().out == ""


def test_ppo_prints_every_logging_steps_and_the_last(tiny_model_dir, tmp_path, capsys):
    """Upstream's loop logs every update."""
    trainer = make_trainer(tiny_model_dir, tmp_path / "run")
    lines = LogLines(trainer, plain_recipe(tmp_path / "run"))
    trainer.state.max_steps, trainer.state.logging_steps = 7, 3
    for step in range(1, 8):
        trainer.state.global_step = step
        lines.on_log(trainer.args, trainer.state, trainer.control, {"loss": 1.0, "objective/kl": 0.1})
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "step 3/7",
        "step 6/7",
        "step 7/7",
    ]


def test_tokens_of_a_pair_count_both_texts():
    rows = [{"prompt_ids": [1] * 10, "chosen_ids": [1] * 5, "rejected_ids": [1] * 3}]
    assert tokens_per_row(rows) == 28
    assert tokens_per_row(iter(rows)) is None


def test_frozen_parameters_are_not_trained(tiny_model_dir, tmp_path):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run")
    trained, parameters = count_parameters(trainer)
    trainer.model.lm_head.weight.requires_grad_(False)
    assert trained == parameters == sum(p.numel() for p in trainer.model.parameters())
    assert count_parameters(trainer) == (parameters - trainer.model.lm_head.weight.numel(), parameters)


@pytest.mark.parametrize(
    ("options", "at", "expected"),
    [
        (EPOCHS, 3, []),
        (EPOCHS | {"eval_strategy": "steps", "eval_steps": 3}, 3, []),
        # The best checkpoint depends on the evaluation at an epoch's end, but on none in its middle.
        (EPOCHS | {"load_best_model_at_end": True, "save_strategy": "epoch"}, 3, []),
        (EPOCHS | {"load_best_model_at_end": True, "save_strategy": "epoch"}, 12, [12]),
    ],
)
def test_a_stop_waits_for_no_evaluation(tiny_model_dir, tmp_path, options, at, expected):
    seen = AtStep(at)
    with pytest.raises(Stopped):
        train(with_eval(tiny_model_dir, tmp_path / "run", seen, **options))
    assert seen.evaluated == expected
    assert (tmp_path / f"run/checkpoint-{at}/optimizer.pt").is_file()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (EPOCHS, [12, 24]),
        (EPOCHS | {"eval_strategy": "steps", "eval_steps": 10}, [10, 20, 24]),
        (EPOCHS | {"eval_strategy": "no"}, [24]),
    ],
)
def test_the_last_weights_are_evaluated_once(tiny_model_dir, tmp_path, options, expected):
    seen = AtStep()
    trainer = with_eval(tiny_model_dir, tmp_path / "run", seen, **options)
    run = train(trainer)
    assert seen.evaluated == expected
    assert run.metrics["eval_loss"] == trainer.evaluate()["eval_loss"]
    assert set(run.metrics) == {"train_loss", "steps", "eval_loss"}


def test_weights_that_were_exchanged_for_the_best_are_evaluated_again(tiny_model_dir, tmp_path):
    seen = AtStep()
    best = {"load_best_model_at_end": True, "save_strategy": "epoch", "greater_is_better": True}
    trainer = with_eval(tiny_model_dir, tmp_path / "run", seen, **EPOCHS, **best)
    run = train(trainer)
    # The loss falls, so the highest is the first.
    assert seen.evaluated == [12, 24, 24]
    assert read_record(tmp_path / "run")["best"] == {
        "checkpoint": "checkpoint-12",
        "step": 12,
        "metric": "loss",
        "value": run.metrics["eval_loss"],
    }


def test_the_loss_of_a_resumed_run_covers_all_its_steps(tiny_model_dir, tmp_path):
    whole = train(make_trainer(tiny_model_dir, tmp_path / "whole"))
    with pytest.raises(Stopped):
        train(make_trainer(tiny_model_dir, tmp_path / "cut", AtStep(3)))
    again = train(make_trainer(tiny_model_dir, tmp_path / "cut"))
    assert again.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], rel=1e-5)


def test_a_resumed_curve_is_in_one_folder_and_there_is_no_upstream_card(tiny_model_dir, tmp_path):
    pytest.importorskip("tensorboard")
    options = {"report_to": "tensorboard", "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(Stopped):
        train(make_trainer(tiny_model_dir, tmp_path / "run", AtStep(3), **options))
    train(make_trainer(tiny_model_dir, tmp_path / "run", **options))
    files = list((tmp_path / "run/runs").rglob("events.*"))
    assert len(files) == 2 and {file.parent for file in files} == {tmp_path / "run/runs"}
    assert not (tmp_path / "run/README.md").exists()


@pytest.mark.parametrize(
    ("push", "parent", "written"),
    [
        (False, "owner/name", False),
        (False, None, False),
        (True, "./parent", False),
        (True, "owner/name", True),
    ],
)
def test_upstreams_cards_are_written_only_where_they_name_the_right_base(
    tiny_model_dir, tmp_path, push, parent, written
):
    """Both are: that of the trainer, and that of an adapter."""
    trainer, recipe = make_trainer(tiny_model_dir, tmp_path / "run"), plain_recipe(tmp_path / "run")
    trainer.args.push_to_hub = push
    recipe.model = SimpleNamespace(model_name_or_path=parent)
    trainer.model = get_peft_model(trainer.model, LoraConfig(target_modules=["q_proj"]))
    no_wrong_card(trainer, recipe)
    (tmp_path / "run").mkdir(exist_ok=True)
    trainer.create_model_card()
    trainer.model.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter/README.md").exists() == written
    assert (tmp_path / "run/README.md").exists() == written
