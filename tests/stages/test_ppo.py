"""The ppo stage: reference, value and reward models, the turn end, what moves, what is saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from preference_runs import (
    LORA,
    moved,
    pairs,
    save_lora_parent,
    snapshot,
    thumbs,
    user,
    write_recipe,
)
from repository import ROOT
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lifecycle_recipes.doctor.trainer_level.trial_build import TrialRun
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.saved import load_saved
from lifecycle_recipes.models.turn_end import scored_ids
from lifecycle_recipes.recipe.read import load_recipe
from lifecycle_recipes.record.run import Run, Stopped
from lifecycle_recipes.stages import ppo
from lifecycle_recipes.training.train import train_and_save

TRAIN = {"response_length": 12, "num_ppo_epochs": 1, "num_sample_generations": 0, "missing_eos_penalty": 1.0}
PROMPTS = [{"prompt": user(i)} for i in range(24)]


@pytest.fixture
def recipe_of(tmp_path, tiny_model_dir, tiny_reward_dir):
    """Path of a ppo recipe; keyword arguments are keys of its train section, or sections."""

    def write(parent=tiny_model_dir, rows=PROMPTS, folder=tmp_path, **keys):
        sections = {name: keys.pop(name) for name in ("model", "reward", "value") if name in keys}
        sections = {"reward": {"model_name_or_path": str(tiny_reward_dir)}} | sections
        return write_recipe(folder, "ppo", rows, parent, train=TRAIN | keys, **sections)

    return write


def build(path, run=None):
    return ppo.build_trainer(load_recipe(ppo.PPORecipe, [path]), run or TrialRun())


def updates(trainer):
    return [entry for entry in trainer.state.log_history if "objective/kl" in entry]


def test_policy_and_value_model_move_and_the_others_do_not(recipe_of, tiny_model_dir, tiny_reward_dir):
    trainer = build(recipe_of())
    parent = snapshot(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    judge = snapshot(AutoModelForSequenceClassification.from_pretrained(tiny_reward_dir, num_labels=1))
    assert moved(trainer.model.value_model, judge) == set()
    trainer.train()
    assert moved(trainer.model.policy, parent) == set(parent)
    assert moved(trainer.model.value_model, judge) == set(judge)
    assert moved(trainer.ref_model, parent) == set()
    assert moved(trainer.reward_model, judge) == set()


def test_the_drift_starts_at_zero(recipe_of, tiny_model_dir, tmp_path):
    # Sampling with the parent's repetition penalty would not be sampling from the policy.
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.generation_config.repetition_penalty = 2.0
    model.save_pretrained(tmp_path / "parent")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "parent")
    trainer = build(recipe_of(tmp_path / "parent"))
    trainer.train()
    first, second = updates(trainer)
    assert abs(first["objective/kl"]) < 1e-4
    assert second["objective/kl"] > 1e-3
    trainer.save_model()
    saved = AutoModelForCausalLM.from_pretrained(trainer.args.output_dir).generation_config
    assert saved.repetition_penalty == 2.0


def test_the_record_and_the_saved_policy(recipe_of, tmp_path, monkeypatch):
    kept = {}
    make = ppo.build_trainer
    monkeypatch.setattr(ppo, "build_trainer", lambda *a: kept.setdefault("trainer", make(*a)))
    ppo.main([recipe_of()])
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "done"
    metrics = record["metrics"]
    assert metrics["steps"] == 2
    assert record["tokens"] > 0
    first, second = updates(kept["trainer"])
    assert metrics["train_score_first"] == pytest.approx(first["objective/scores"])
    assert metrics["train_score_last"] == pytest.approx(second["objective/scores"])
    assert metrics["train_kl"] == pytest.approx(second["objective/kl"])
    saved = load_saved(str(tmp_path / "run"))
    assert moved(saved.model, snapshot(kept["trainer"].model.policy)) == set()
    ends = saved.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert saved.model.generation_config.eos_token_id == sorted(ends)
    assert saved.tokenizer.padding_side == "right"


@pytest.mark.parametrize("bf16", [True, False])
def test_the_recipes_precision_reaches_its_accelerator(recipe_of, bf16):
    """Upstream's PPOTrainer makes one that knows the launcher's variable alone."""
    trainer = build(recipe_of(bf16=bf16, use_cpu=True))
    assert trainer.accelerator.mixed_precision == ("bf16" if bf16 else "no")
    assert trainer.accelerator.native_amp is bf16


def test_two_runs_give_the_same_metrics(recipe_of, tmp_path):
    def run(name):
        trainer = build(recipe_of(folder=tmp_path / name))
        trainer.train()
        return [{k: v for k, v in u.items() if k not in ("eps", "val/ratio_var")} for u in updates(trainer)]

    assert run("a") == run("b")


def test_a_reply_without_its_turn_end_is_penalised(recipe_of):
    # Two tokens are too few to stop in: every score is lower by the penalty.
    def score(**keys):
        trainer = build(recipe_of(response_length=2, max_steps=1, **keys))
        trainer.train()
        return updates(trainer)[0]

    with_penalty, without = score(missing_eos_penalty=3.0), score(missing_eos_penalty=None)
    assert with_penalty["val/num_eos_tokens"] == 0
    assert without["objective/scores"] - with_penalty["objective/scores"] == pytest.approx(3.0, abs=1e-4)


def test_rollouts_stop_at_the_turn_end_and_start_behind_the_generation_prompt(recipe_of):
    trainer = build(recipe_of())
    tokenizer = trainer.processing_class
    assert trainer.stop_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    batch = next(iter(trainer.dataloader))
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n")
        assert mask[-1] == 1


def test_the_reward_is_read_where_it_was_trained(tiny_tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    row = pairs(1)[0]
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    reply = tokenizer(row["chosen"][0]["content"])["input_ids"]
    assert scored_ids(tokenizer, row["prompt"] + row["chosen"], end) == [*prompt, *reply, end]


def test_an_adapter_parent_is_the_reference_and_its_base_is_not_overwritten(
    recipe_of, tiny_model_dir, tiny_reward_dir, tmp_path
):
    parent = save_lora_parent(tiny_model_dir, tmp_path / "sft-lora")
    judge = AutoModelForSequenceClassification.from_pretrained(tiny_reward_dir, num_labels=1)
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS")
    get_peft_model(judge, adapter).save_pretrained(tmp_path / "rm-lora")
    AutoTokenizer.from_pretrained(tiny_reward_dir).save_pretrained(tmp_path / "rm-lora")
    rewards = {"model_name_or_path": str(tmp_path / "rm-lora")}
    recipe = load_recipe(ppo.PPORecipe, [recipe_of(parent, model=LORA, reward=rewards)])
    with Run(recipe.raw) as run:
        trainer = ppo.build_trainer(recipe, run)
        ids = torch.tensor([trainer.train_dataset[0]["input_ids"]])
        expected = load_saved(str(parent)).model(ids).logits
        assert torch.allclose(trainer.ref_model(ids).logits, expected, atol=1e-4)
        train_and_save(trainer, recipe, run)
    policy = trainer.model.policy.eval()
    reloaded = load_saved(recipe.train.output_dir).model(ids).logits
    assert torch.allclose(reloaded, policy(ids).logits, atol=1e-4)
    assert not torch.allclose(reloaded, expected, atol=1e-4)
    ends = trainer.processing_class.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    saved = json.loads(Path(recipe.train.output_dir, "generation_config.json").read_text())
    assert saved["eos_token_id"] == sorted(ends)


def test_prompts_without_room_for_a_reply_are_left_out_and_counted(recipe_of):
    rows = [*PROMPTS, {"prompt": [{"role": "user", "content": "long " * 200}]}]
    run = TrialRun()
    trainer = build(recipe_of(rows=rows), run)
    assert len(trainer.train_dataset) == 24
    assert run.notes["data"]["left_out"] == {"prompt longer than 244 tokens": 1}


def test_a_stop_ends_the_run_before_its_last_update(recipe_of):
    trainer = build(recipe_of(max_steps=4))

    class Ask(type(trainer.callback_handler.callbacks[0])):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    trainer.add_callback(Ask())
    with pytest.raises(Stopped, match="update 2 of 4"):
        trainer.train()


def test_a_stopped_run_starts_again(recipe_of, tmp_path):
    """Its checkpoint is found by the record, and not read: upstream cannot resume."""
    recipe = load_recipe(ppo.PPORecipe, [recipe_of()])
    with Run(recipe.raw) as run:
        run.resume_from = str(tmp_path / "run/checkpoint-1")
        trainer = ppo.build_trainer(recipe, run)
        train_and_save(trainer, recipe, run)
    assert [u["episode"] for u in updates(trainer)] == [8, 16]


def test_a_reward_model_without_a_head_is_refused(recipe_of, tiny_model_dir):
    with pytest.raises(Refusal) as refusal:
        build(recipe_of(reward={"model_name_or_path": str(tiny_model_dir)}))
    assert refusal.value.findings[0].code == "reward-head-missing"


def test_prompts_are_required(recipe_of):
    with pytest.raises(Refusal) as refusal:
        build(recipe_of(rows=pairs(3) and [{"question": "?"}]))
    assert refusal.value.findings[0].code == "missing-column"


def launch(command: list[str], arguments: list[str], seconds: int = 300, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:], *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


CHAIN = """
import sys
from lifecycle_recipes.stages import dpo, kto, ppo, reward

for stage, recipe in zip((reward, ppo, dpo, kto), sys.argv[1:], strict=True):
    stage.main([recipe])
"""


def test_the_four_stages_run_through_accelerate_launch_as_a_chain(tmp_path, tiny_model_dir):
    """One launch for all, to import upstream once; ppo scores with what the reward stage saved."""
    script = tmp_path / "chain.py"
    script.write_text(CHAIN)
    judge = {"model_name_or_path": str(tmp_path / "reward/run")}
    recipes = [
        write_recipe(tmp_path / "reward", "reward", pairs(), tiny_model_dir),
        write_recipe(tmp_path / "ppo", "ppo", PROMPTS, tiny_model_dir, train=TRAIN, reward=judge),
        write_recipe(tmp_path / "dpo", "dpo", pairs(), tiny_model_dir),
        write_recipe(tmp_path / "kto", "kto", thumbs(), tiny_model_dir),
    ]
    accelerate = ["accelerate", "launch", "--quiet", "--config_file", "accelerate_configs/cpu.yaml"]
    done = launch(accelerate, [str(script), *recipes])
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("reward", "ppo", "dpo", "kto"):
        record = json.loads((tmp_path / stage / "run/run.json").read_text())
        assert (record["stage"], record["status"], record["metrics"]["steps"]) == (stage, "done", 2)
    assert "===" not in done.stdout
    parent = snapshot(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    for stage in ("ppo", "dpo", "kto"):
        assert moved(load_saved(str(tmp_path / stage / "run")).model, parent) == set(parent)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cpu_ddp", "zero2", "zero3"])
def test_ppo_on_two_processes_saves_what_it_trained(tmp_path, recipe_of, tiny_model_dir, layout):
    config = yaml.safe_load((ROOT / f"accelerate_configs/{layout}.yaml").read_text())
    here = tmp_path / "layout.yaml"
    here.write_text(yaml.safe_dump(config | {"num_processes": 2}))
    accelerate = ["accelerate", "launch", "--config_file", str(here), "-m", "lifecycle_recipes.stages.ppo"]
    done = launch(accelerate, [recipe_of()], seconds=600, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["layout"]["processes"] == 2
    assert record["metrics"]["steps"] == 2
    parent = snapshot(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    saved = load_saved(str(tmp_path / "run")).model
    assert set(snapshot(saved)) == set(parent)
    assert moved(saved, parent) == set(parent)
