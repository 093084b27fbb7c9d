"""The dpo stage: its reference is its parent, full or adapter, and only the policy moves."""

import json
from functools import partial

import pytest
import torch
from preference_runs import (
    LORA,
    build_stage,
    kept_trainer,
    moved,
    pairs,
    save_lora_parent,
    write_recipe,
)
from transformers import AutoModelForCausalLM

from lifecycle_recipes.doctor.trainer_level.trial_build import TrialRun
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.saved import load_saved
from lifecycle_recipes.recipe.read import load_recipe
from lifecycle_recipes.stages import dpo


@pytest.fixture(scope="module")
def lora_parent(tmp_path_factory, tiny_model_dir):
    return save_lora_parent(tiny_model_dir, tmp_path_factory.mktemp("sft-lora"))


build = partial(build_stage, "dpo")


def reply_logps(model, batch) -> torch.Tensor:
    """Summed log-probability of each reply of a collated batch, computed apart from the trainer."""
    with torch.no_grad():
        logits = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logps = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return (logps * batch["completion_mask"][:, 1:]).sum(1)


def first_batch(trainer):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(8)])


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_two_steps_save_and_reload(tmp_path, tiny_model_dir, loss_type, capfd):
    train = {"loss_type": [loss_type]}
    dpo.main([write_recipe(tmp_path, "dpo", pairs(), tiny_model_dir, train=train)])
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "done"
    assert record["metrics"]["steps"] == 2
    assert {"eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"} <= set(record["metrics"])
    assert record["data"]["rows_out"] == record["data"]["rows_in"] == 33
    load_saved(str(tmp_path / "run"))


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("adapter", [LORA, {}])
def test_an_adapter_parent_is_where_policy_and_reference_start(
    tmp_path, tiny_model_dir, lora_parent, adapter, precompute
):
    train = {"precompute_ref_log_probs": precompute}
    trainer = build(tmp_path, lora_parent, model=adapter, train=train)
    batch = first_batch(trainer)
    parent = reply_logps(load_saved(str(lora_parent)).model, batch)
    base = reply_logps(AutoModelForCausalLM.from_pretrained(tiny_model_dir), batch)
    policy = reply_logps(trainer.model, batch)
    if precompute:
        reference = torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]])
    else:
        reference = torch.cat(trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch))
    assert torch.allclose(policy, parent, atol=1e-3)
    assert torch.allclose(reference, parent, atol=1e-3)
    assert (policy - base).abs().mean() > 0.2


def test_lora_on_lora_moves_only_its_own_adapter_and_keeps_the_chain(tmp_path, lora_parent):
    path = write_recipe(tmp_path, "dpo", pairs(), lora_parent, model=LORA)
    with kept_trainer(dpo) as kept:
        dpo.main([path])
    trainer = kept.trainer
    changed = moved(trainer.model, kept.before)
    assert changed == {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert changed and all("lora_" in name for name in changed)
    # Whoever loads the saved adapter gets parent and adapter.
    batch = first_batch(trainer)
    reloaded = reply_logps(load_saved(str(tmp_path / "run")).model, batch)
    assert torch.allclose(reloaded, reply_logps(trainer.model, batch), atol=1e-3)


def test_a_reply_that_max_length_cuts_is_counted(tmp_path, tiny_model_dir):
    rows = pairs()
    rows[20]["chosen"][0]["content"] = "very long " * 40
    run = TrialRun()
    path = write_recipe(tmp_path, "dpo", rows, tiny_model_dir, train={"max_length": 100})
    dpo.build_trainer(load_recipe(dpo.DPORecipe, [path]), run)
    assert run.notes["data"]["truncated"] == 1


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([{"prompt": p["prompt"], "rejected": p["rejected"]} for p in pairs(3)], "missing-column"),
        ([*pairs(3), pairs()[0] | {"chosen": None}], "empty-reply"),
    ],
)
def test_bad_pairs_are_refused(tmp_path, tiny_model_dir, rows, code):
    with pytest.raises(Refusal) as refusal:
        build(tmp_path, tiny_model_dir, rows)
    assert refusal.value.findings[0].code == code
