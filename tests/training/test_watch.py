"""The watch during training: the first number that is not finite, and signs in the log."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
import yaml
from fake_runs import fake_raw
from preference_runs import write_recipe
from repository import ROOT
from small_trainer import make_trainer, status, train
from transformers import TrainerCallback

from lifecycle_recipes.evals.measure import find_reward_hacking
from lifecycle_recipes.finding import FAILED, Refusal
from lifecycle_recipes.record.run import Run
from lifecycle_recipes.training.finite import BatchRows, Watch
from lifecycle_recipes.training.log_warnings import LogSigns, kl_bound
from lifecycle_recipes.training.weights import find_unmoved, fingerprints


def record(directory) -> dict:
    return json.loads((directory / "run.json").read_text())


def poison_row(trainer, row: int) -> None:
    """From now on the loss of every batch with this row is NaN."""
    text = torch.tensor(trainer.train_dataset[row]["input_ids"])
    compute = trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        loss = compute(model, inputs, *args, **kwargs)
        hit = (inputs["input_ids"] == text.to(loss.device)).all(1).any()
        return loss * math.nan if hit else loss

    trainer.compute_loss = compute_loss


class Batches(TrainerCallback):
    """The tokens of every batch that was trained on, by optimizer step."""

    def __init__(self, trainer):
        self.steps: dict[int, list] = {}
        step = trainer.training_step

        def training_step(model, inputs, *args, **kwargs):
            self.steps.setdefault(trainer.state.global_step + 1, []).extend(inputs["input_ids"].tolist())
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = training_step


@pytest.mark.parametrize("options", [{"logging_steps": 100}, {"save_strategy": "steps", "save_steps": 1}])
def test_the_first_nan_ends_the_run_with_the_rows_of_its_batch(tmp_path, tiny_model_dir, options):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", gradient_accumulation_steps=2, **options)
    poison_row(trainer, 17)
    batches = Batches(trainer)
    with pytest.raises(Refusal) as refusal:
        train(trainer)
    bad = max(batches.steps)  # the last step that was begun
    assert refusal.value.status == FAILED
    message = refusal.value.findings[0].message
    assert f"loss is nan at step {bad}, learning rate 0.0" in message
    stopped = record(tmp_path / "run")["stopped_at"]
    assert stopped["step"] == bad and 17 in stopped["rows"] and len(stopped["rows"]) == 4
    assert batches.steps[bad] == [trainer.train_dataset[i]["input_ids"] for i in stopped["rows"]]
    assert len(stopped["texts"]) == 4
    assert status(tmp_path / "run").startswith("failed: [non-finite] loss is nan")
    assert record(tmp_path / "run")["findings"][0]["code"] == "non-finite"
    assert not list((tmp_path / "run").glob("*.safetensors"))
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        assert int(checkpoint.name[11:]) < bad


def test_a_gradient_that_breaks_ends_the_run(tmp_path, tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", logging_steps=100)
    weight = trainer.model.lm_head.weight
    weight.register_hook(lambda grad: grad * math.inf if trainer.state.global_step == 2 else grad)
    with pytest.raises(Refusal, match="grad_norm is (nan|inf) at step 3"):
        train(trainer)
    assert trainer.state.global_step == 3


def test_an_update_that_breaks_the_weights_is_not_saved(tmp_path, tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", save_strategy="steps", save_steps=2)

    class Overflow(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                model.lm_head.weight.data[0, 0] = math.inf

    trainer.add_callback(Overflow())
    with pytest.raises(Refusal) as refusal:
        train(trainer)
    (found,) = refusal.value.findings
    assert found.code == "non-finite" and found.message.startswith("1 weights ")
    assert "step 2" in found.message and "lm_head.weight" in found.message
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize("batch", [{"per_device_train_batch_size": 5}, {"gradient_accumulation_steps": 3}])
def test_rows_of_a_step_over_epochs_and_uneven_batches(tmp_path, tiny_model_dir, batch):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", max_steps=11, **batch)
    batches, seen = Batches(trainer), {}
    watch = Watch(trainer, Run(fake_raw(tmp_path / "run")))
    rows = BatchRows()

    class Note(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
            rows.follow(train_dataloader, args, 1)

        def on_step_end(self, args, state, control, **kwargs):
            seen[state.global_step] = rows.of_step(state.global_step)

    trainer.add_callback(Note())
    trainer.train()
    texts = {n: [trainer.train_dataset[i]["input_ids"] for i in rows] for n, rows in seen.items()}
    assert texts == batches.steps and len(texts) == 11 and watch.last is None


def test_weights_that_never_move(tmp_path, tiny_model_dir):
    with pytest.raises(Refusal, match="weights-unmoved.*none of") as refusal:
        train(make_trainer(tiny_model_dir, tmp_path / "still", learning_rate=0.0))
    assert refusal.value.status == FAILED and not list((tmp_path / "still").glob("*.safetensors"))
    trainer = make_trainer(tiny_model_dir, tmp_path / "part")
    trainer.model.model.norm.weight.register_hook(torch.zeros_like)
    run = train(trainer)
    (finding,) = run.findings
    assert finding.code == "some-weights-unmoved" and "model.norm.weight" in finding.message
    assert record(tmp_path / "part")["findings"][0]["code"] == "some-weights-unmoved"
    assert record(tmp_path / "part")["status"] == "done"


@pytest.mark.parametrize(
    ("options", "fix"),
    [({"learning_rate": 0.0}, "train.learning_rate"), ({"warmup_steps": 5}, "train for more steps")],
)
def test_one_step_that_changes_nothing_is_no_finished_run(tmp_path, tiny_model_dir, options, fix):
    with pytest.raises(Refusal, match=r"weights-unmoved.* in 1 step\n") as refusal:
        train(make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1, **options))
    assert refusal.value.status == FAILED and fix in refusal.value.findings[0].fix
    assert status(tmp_path / "run").startswith("failed: [weights-unmoved]")


def test_in_bfloat16_the_cure_is_another_dtype(tiny_model_dir, tmp_path):
    trainer = make_trainer(tiny_model_dir, tmp_path)
    model = trainer.model.bfloat16()
    before = fingerprints(model)
    assert find_unmoved(model, before, trainer.args, 0) == []
    assert find_unmoved(model, before, trainer.args, 2, resumed=True) == []
    (finding,) = find_unmoved(model, before, trainer.args, 3, resumed=True)
    assert "bfloat16" in finding.fix and "model.dtype" in finding.fix
    with torch.no_grad():
        for p in model.parameters():
            p.view(-1)[0] += 1
    assert find_unmoved(model, before, trainer.args, 3) == []


def test_the_probe_of_a_run_is_what_its_saved_model_says(tmp_path, tiny_model_dir):
    from transformers import AutoModelForCausalLM

    from lifecycle_recipes.doctor.trainer_level.forward import mean_log_probability

    train(make_trainer(tiny_model_dir, tmp_path / "run"))
    probe = record(tmp_path / "run")["probe"]

    def message(path):
        return mean_log_probability(AutoModelForCausalLM.from_pretrained(path).eval(), probe["ids"])

    assert message(tmp_path / "run") == pytest.approx(probe["value"], abs=1e-5)
    assert message(tiny_model_dir) == pytest.approx(probe["start"], abs=1e-5)
    assert abs(probe["start"] - probe["value"]) > 0.1


# The log


def codes(signs: LogSigns, entries: list[dict]) -> list[str]:
    return [finding.code for step, logs in enumerate(entries) for finding in signs.see(logs, step)]


def test_signs_in_a_log_are_told_once():
    assert codes(LogSigns(), [{"loss": 0.1}, {"loss": 0.0}, {"loss": 0.0}]) == ["zero-loss"]
    assert codes(LogSigns(zero_loss_is_fine=True), [{"loss": 0.0}]) == []
    norms = [{"grad_norm": n} for n in (1.0, 0.9, 1.1, 1.0, 1.2, 9.0, 10.5, 20.0)]
    assert codes(LogSigns(), norms) == ["gradient-spike"]
    assert codes(LogSigns(), norms[3:]) == []
    rising = [{"eval_loss": x} for x in (2.0, 1.0, 1.1, 1.2, 1.3, 1.4)]
    assert codes(LogSigns(), rising) == ["eval-loss-rising"]
    assert codes(LogSigns(), rising[:4]) == []
    kl = [{"objective/kl": 5.0}, {"objective/kl": 29.0}]
    assert codes(LogSigns(kl_bound=28), kl) == ["kl-past-bound"] and codes(LogSigns(), kl) == []


def test_the_reference_point_of_kto_is_held_to_no_bound():
    """TRL calls it `kl`; what a gate promises is measured on the model's own replies."""
    assert codes(LogSigns(kl_bound=28), [{"kl": 30.0}, {"eval_kl": 30.0}]) == []


def test_the_kl_bound_is_what_the_gate_promises():
    gate = ["kl <= 0.5", "acc >= parent/acc - 0.1", "no line at all"]
    assert kl_bound(gate, 56) == 28 and kl_bound(gate, None) is None
    assert kl_bound([*gate, "train_kl < 10"], 56) == 10
    assert kl_bound(["kl <= parent/kl", "kl >= 1"], 56) is None


def test_reward_hacking_is_a_reward_that_rises_while_the_rubric_falls():
    metrics = {"reward": 2.0, "reward_against": 1.0, "rubric_win_rate": 0.3}
    (finding,) = find_reward_hacking(metrics, prompts=300)
    assert finding.code == "reward-hacking" and "win rate 0.30" in finding.message
    assert find_reward_hacking(metrics | {"rubric_win_rate": 0.48}, prompts=300) == []  # noise
    assert find_reward_hacking(metrics | {"reward": 0.5}, prompts=300) == []
    longer = metrics | {"rubric_win_rate": 0.6, "rubric_win_rate_lc": 0.4}  # it wins by its length alone
    (finding,) = find_reward_hacking(longer, prompts=300)
    assert "win rate at equal length 0.40" in finding.message and "win rate 0.60" not in finding.message
    assert find_reward_hacking({"reward": 2.0}) == []


# Two processes

POISONED = """
import math, os, sys
import lifecycle_recipes.stages.sft as sft

build = sft.build_trainer

def build_poisoned(recipe, run):
    trainer = build(recipe, run)
    compute = trainer.compute_loss
    def compute_loss(model, inputs, *args, **kwargs):
        bad = os.environ["RANK"] == "1" and trainer.state.global_step == 1 and model.training
        loss = compute(model, inputs, *args, **kwargs)
        return loss * math.nan if bad else loss
    trainer.compute_loss = compute_loss
    return trainer

if "--poison" in sys.argv:
    sys.argv.remove("--poison")
    sft.build_trainer = build_poisoned
sft.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cpu_ddp", "zero3"])
def test_two_processes_chain_by_their_probes_and_leave_together(
    tmp_path, tiny_model_dir, tiny_chat_rows, layout
):
    (tmp_path / "life.py").write_text(POISONED)
    config = yaml.safe_load((ROOT / f"accelerate_configs/{layout}.yaml").read_text()) | {"num_processes": 2}
    (tmp_path / "layout.yaml").write_text(yaml.safe_dump(config))
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # asks for the CPU, in every layout

    def run(name, parent, *flags):
        sections = {"train": {"max_steps": 4}, "allow": {"eval-overlap": "a test"}}
        recipe = write_recipe(tmp_path / name, "sft", tiny_chat_rows, parent, **sections)
        command = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            tmp_path / "layout.yaml",
        ]
        command = [*map(str, command), str(tmp_path / "life.py"), recipe, *flags]
        options = {"cwd": ROOT, "env": hidden, "capture_output": True, "text": True, "timeout": 600}
        done = subprocess.run(command, check=False, **options)
        return done, record(tmp_path / name / "run")

    done, first = run("first", tiny_model_dir)
    assert done.returncode == 0, done.stderr[-3000:]
    ran = first["layout"]
    assert ran["processes"] == 2 and ran["zero_stage"] == (3 if layout == "zero3" else None)
    done, second = run("second", tmp_path / "first/run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert second["probe"]["start"] == pytest.approx(first["probe"]["value"], abs=1e-3)
    done, bad = run("bad", tiny_model_dir, "--poison")
    assert done.returncode == 1 and bad["status"].startswith("failed: [non-finite] ")
    assert all(words in bad["status"] for words in ("loss", "another process", "step 2"))
    assert bad["stopped_at"]["step"] == 2 and len(bad["stopped_at"]["rows"]) == 16
    assert all(str(tmp_path / "bad/train.jsonl:") in place for place in bad["stopped_at"]["places"])
    assert len(bad["stopped_at"]["places"]) == 8
    assert not list((tmp_path / "bad/run").glob("*.safetensors"))
