"""Level 3, the chain: a trainer that drops its parent, its reference or its vocabulary is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from preference_runs import LORA, save_lora_parent
from safetensors.torch import load_file, save_file

from lifecycle_recipes.doctor.trainer_level.level import find_in_trainer
from lifecycle_recipes.doctor.trainer_level.step_zero import find_in_chain, find_in_parent
from lifecycle_recipes.doctor.trainer_level.trial_build import built_trainer


def errors(findings) -> list[str]:
    return [finding.code for finding in findings if finding.severity == "error"]


def write_record(path: Path, **fields) -> None:
    record = {"schema": 1, "status": "done", "stage": "sft", "metrics": {}, **fields}
    (path / "run.json").write_text(json.dumps(record))


def test_a_new_adapter_that_drops_its_parent(stage_recipe, tiny_model_dir, tmp_path):
    """What alignment-handbook's way of loading does: the adapter's base, and a new adapter on it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    parent = save_lora_parent(tiny_model_dir, tmp_path / "parent")
    with built_trainer(stage_recipe("dpo", parent, model=LORA)) as (built, trainer, run):
        assert find_in_chain(trainer, built) == []
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer.model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), config)
        (finding,) = find_in_chain(trainer, built)
    assert finding.code == "parent-dropped" and "is the value before the parent's training" in finding.message
    assert finding.where == str(parent)


@pytest.fixture
def parent(tiny_model_dir, tmp_path):
    """A copy of the tiny model that says it is a run of ours."""
    path = tmp_path / "parent"
    shutil.copytree(tiny_model_dir, path)
    return path


def test_a_model_that_does_not_say_what_its_parents_record_says(stage_recipe, parent):
    with built_trainer(stage_recipe("sft", parent)) as (built, trainer, run):
        from lifecycle_recipes.doctor.trainer_level.step_zero import probe_ids, read_prepared

        probe = {"ids": probe_ids(trainer), "start": -9.0, "loose": 1e-3}
        probe["value"] = read_prepared(trainer, probe["ids"]).value
        write_record(parent, probe=probe)
        assert find_in_chain(trainer, built) == []
        write_record(parent, probe=probe | {"value": probe["value"] + 0.01})
        assert errors(find_in_chain(trainer, built)) == ["parent-dropped"]
        # In half precision a difference counts only where the model is nearer to where its parent began.
        write_record(parent, probe=probe | {"value": probe["value"] + 0.06, "loose": 0.05})
        assert find_in_chain(trainer, built) == []
        write_record(
            parent, probe=probe | {"value": probe["value"] + 1, "start": probe["value"], "loose": 0.3}
        )
        assert errors(find_in_chain(trainer, built)) == ["parent-dropped"]


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_a_reference_that_is_not_the_parent(stage_recipe, adapter):
    with built_trainer(stage_recipe("dpo", model=adapter)) as (built, trainer, run):
        assert find_in_chain(trainer, built) == []
        moved = trainer.ref_model or trainer.model
        with torch.no_grad():
            for name, p in moved.named_parameters():
                if "lora_B" in name or not adapter:
                    p.add_(0.05 * torch.randn_like(p))
        assert errors(find_in_chain(trainer, built)) == ["reference-differs"]


def test_files_of_a_parent_that_changed(parent, tiny_model_dir, tmp_path):
    from lifecycle_recipes.record.parents import hash_file, hash_weights

    write_record(parent, tokenizer_sha256=hash_file(parent / "tokenizer.json"))
    assert find_in_parent("model", str(parent)) == []
    with (parent / "tokenizer.json").open("a") as stream:
        stream.write("\n")
    assert errors(find_in_parent("model", str(parent))) == ["tokenizer-differs"]
    adapter = save_lora_parent(parent, tmp_path / "adapter")
    trained_on = {"path": str(parent), "weights_sha256": hash_weights(parent)}
    write_record(adapter, parents={"model": trained_on})
    assert find_in_parent("model", str(adapter)) == []
    write_record(adapter, parents={"model": trained_on | {"weights_sha256": "another"}})
    assert errors(find_in_parent("model", str(adapter))) == ["base-differs"]


def test_a_reward_model_with_another_vocabulary(stage_recipe, tiny_reward_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_reward_dir, other)
    with built_trainer(stage_recipe("ppo", reward={"model_name_or_path": str(other)})) as (
        built,
        trainer,
        run,
    ):
        assert find_in_chain(trainer, built) == []
        text = json.loads((other / "tokenizer.json").read_text())
        vocabulary = text["model"]["vocab"]
        a, b = list(vocabulary)[100:102]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
        (other / "tokenizer.json").write_text(json.dumps(text))
        (finding,) = find_in_chain(trainer, built)
    assert finding.code == "tokenizer-differs" and "2 token ids differ between the policy" in finding.message
    assert replace(finding, message="").where == str(other)


@pytest.mark.parametrize("adapter", [{}, LORA])
def test_a_parent_with_a_nan_is_named_with_its_tensor(stage_recipe, tiny_model_dir, tmp_path, adapter):
    parent = shutil.copytree(tiny_model_dir, tmp_path / "parent")
    weights = load_file(parent / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = float("nan")
    save_file(weights, parent / "model.safetensors", {"format": "pt"})
    with built_trainer(stage_recipe("sft", parent, model=adapter)) as (recipe, trainer, run):
        (finding,) = find_in_trainer(trainer, recipe, run.origins)
    assert (finding.code, finding.where) == ("non-finite", str(parent))
    assert "layers.1.mlp.up_proj" in finding.message


def test_a_scorer_with_an_infinity_is_named(stage_recipe, tiny_model_dir, tiny_reward_dir, tmp_path):
    reward = shutil.copytree(tiny_reward_dir, tmp_path / "reward")
    weights = load_file(reward / "model.safetensors")
    weights["score.weight"][0, 0] = float("inf")
    save_file(weights, reward / "model.safetensors", {"format": "pt"})
    path = stage_recipe("ppo", reward={"model_name_or_path": str(reward)})
    with built_trainer(path) as (recipe, trainer, run):
        found = find_in_trainer(trainer, recipe, run.origins)
    assert [(f.code, f.where) for f in found] == [("non-finite", str(reward))] * 2  # the reward and the value
    assert "the reward parent's score.weight" in found[0].message
