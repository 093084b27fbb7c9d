"""What dpo and kto share: the policy moves away from a reference that is the parent."""

import pytest
import torch
from preference_runs import build_stage, moved, snapshot
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.parametrize("stage", ["dpo", "kto"])


def test_every_policy_weight_moves_and_the_reference_stays_the_parent(tmp_path, tiny_model_dir, stage):
    trainer = build_stage(stage, tmp_path, tiny_model_dir)
    parent = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    policy = snapshot(trainer.model)
    trainer.train()
    assert moved(trainer.model, policy) == set(policy)
    assert moved(trainer.ref_model, snapshot(parent)) == set()


def test_the_reference_is_loaded_as_the_policy_is(tmp_path, tiny_model_dir, stage):
    trainer = build_stage(stage, tmp_path, tiny_model_dir, model={"dtype": "bfloat16"})
    assert trainer.ref_model.dtype == trainer.model.dtype == torch.bfloat16
