"""The kto stage: good and bad single replies, weighted by the recipe, against the parent as reference."""

import json
from functools import partial

import pytest
import torch
from preference_runs import LORA, build_stage, save_lora_parent, thumbs, write_recipe
from transformers import AutoModelForCausalLM

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.saved import load_saved
from lifecycle_recipes.stages import kto

build = partial(build_stage, "kto")


def test_two_steps_save_and_reload(tmp_path, tiny_model_dir):
    kto.main([write_recipe(tmp_path, "kto", thumbs(), tiny_model_dir)])
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "done"
    assert record["metrics"]["steps"] == 2
    assert "eval_loss" in record["metrics"]
    load_saved(str(tmp_path / "run"))


@pytest.mark.parametrize("adapter", [LORA, {}])
def test_an_adapter_parent_is_the_reference(tmp_path, tiny_model_dir, adapter):
    parent = save_lora_parent(tiny_model_dir, tmp_path / "sft-lora")
    trainer = build(tmp_path / "kto", parent, model=adapter)
    ids = torch.tensor([trainer.train_dataset[0]["prompt_ids"]])
    reference = trainer.ref_model or trainer.model
    expected = load_saved(str(parent)).model(ids).logits
    assert torch.allclose(reference.eval()(ids).logits, expected, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)(ids).logits
    assert (base - expected).abs().max() > 0.1


def test_weights_of_good_and_bad_replies_come_from_the_recipe(tmp_path, tiny_model_dir):
    weights = {"desirable_weight": 0.5, "undesirable_weight": 2.0}
    trainer = build(tmp_path, tiny_model_dir, train=weights)
    assert (trainer.desirable_weight, trainer.undesirable_weight) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([{"prompt": t["prompt"], "label": t["label"]} for t in thumbs()], "missing-column"),
        ([*thumbs(3), thumbs()[0] | {"label": None}], "bad-label"),
        (thumbs()[1::2], "one-label"),
    ],
)
def test_bad_thumbs_are_refused(tmp_path, tiny_model_dir, rows, code):
    with pytest.raises(Refusal) as refusal:
        build(tmp_path, tiny_model_dir, rows)
    assert refusal.value.findings[0].code == code
