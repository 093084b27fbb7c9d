"""LoRA, QLoRA and the chain of adapters."""

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, SFTConfig

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.adapters import merge_adapter, peft_config, require_adapter_base
from lifecycle_recipes.models.load import (
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
)
from lifecycle_recipes.models.saved import load_saved
from lifecycle_recipes.models.turn_end import turn_end

IDS = torch.tensor([[1, 20, 33, 41, 57, 9, 1]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def arguments(output_dir) -> SFTConfig:
    return SFTConfig(output_dir=str(output_dir), use_cpu=True, bf16=False, report_to="none")


def save_adapter(base_dir, path, tokenizer_dir):
    """An adapter on `base_dir` that changes the model, as a finished LoRA run leaves it."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base_dir),
        LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False),
    )
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tokenizer_dir).save_pretrained(path)
    return model


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory, tiny_model_dir):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("chain") / "lora"
    save_adapter(tiny_model_dir, path, tiny_model_dir)
    return path


def test_an_adapter_parent_is_merged_and_the_base_kept_beside_the_child(
    tmp_path, tiny_model_dir, adapter_dir
):
    parent = AutoPeftModelForCausalLM.from_pretrained(adapter_dir)
    config = ModelConfig(model_name_or_path=str(adapter_dir), use_peft=True)
    model = load_causal_lm(config, arguments(tmp_path / "child"))
    assert not isinstance(model, PeftModel)
    assert (logits(model) - logits(parent)).abs().max() < 1e-5
    assert (logits(model) - logits(AutoModelForCausalLM.from_pretrained(tiny_model_dir))).abs().max() > 1e-2
    assert model.config._name_or_path == str(tmp_path / "child/base")
    # What PEFT will write into adapter_config.json: a base that already holds the parent.
    child = get_peft_model(model, peft_config(config))
    child.save_pretrained(tmp_path / "child")
    reloaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "child")
    assert (logits(reloaded) - logits(parent)).abs().max() < 1e-5


@pytest.fixture(scope="module")
def tied_lora_dir(tmp_path_factory, tiny_model_dir):
    """A LoRA run that also trained the embeddings of a model that ties them: an untaught token learnt."""
    path = tmp_path_factory.mktemp("tied")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(path / "base")
    model = AutoModelForCausalLM.from_pretrained(path / "base")
    before = logits(model)
    config = ModelConfig(use_peft=True, lora_modules_to_save=["embed_tokens"])
    adapted = get_peft_model(model, peft_config(config))
    embedding = adapted.get_input_embeddings().modules_to_save["default"].weight
    assert embedding.requires_grad
    with torch.no_grad():
        embedding[5] += 1.0  # not among IDS: only the output head can show it
    assert (logits(adapted) - before).abs().amax((0, 1)).argmax() == 5
    adapted.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(path)
    return path


def test_a_tied_head_learns_with_the_embeddings_and_is_merged_with_them(tied_lora_dir):
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tied_lora_dir / "base"), tied_lora_dir
    )
    merged = merge_adapter(str(tied_lora_dir), AutoModelForCausalLM)
    assert (logits(merged) - logits(adapted)).abs().max() < 1e-5


def test_the_harness_takes_an_adapter_with_tied_embeddings(tied_lora_dir):
    from lifecycle_recipes.evals.harness import SavedModelLM
    from lifecycle_recipes.evals.replies import Replies
    from lifecycle_recipes.models.saved import load_saved

    saved = load_saved(str(tied_lora_dir))
    before = logits(saved.model)
    SavedModelLM(Replies(saved, batch_size=2), 2)
    assert torch.equal(logits(saved.model), before)


def test_a_grandchild_holds_the_whole_chain(tmp_path, adapter_dir):
    config = ModelConfig(model_name_or_path=str(adapter_dir), use_peft=True)
    load_causal_lm(config, arguments(tmp_path / "child"))
    torch.manual_seed(2)
    child = save_adapter(tmp_path / "child/base", tmp_path / "child", adapter_dir)
    grandchild = load_causal_lm(
        ModelConfig(model_name_or_path=str(tmp_path / "child")), arguments(tmp_path / "third")
    )
    assert (logits(grandchild) - logits(child)).abs().max() < 1e-5
    # The run directory was moved, and its own copy of the base with it.
    (tmp_path / "child").rename(tmp_path / "moved")
    moved = merge_adapter(str(tmp_path / "moved"), AutoModelForCausalLM)
    assert (logits(moved) - logits(child)).abs().max() < 1e-5


def test_the_merged_base_is_written_once_and_again_if_the_parent_changes(tmp_path, tiny_model_dir):
    torch.manual_seed(3)
    save_adapter(tiny_model_dir, tmp_path / "lora", tiny_model_dir)
    config, args = ModelConfig(model_name_or_path=str(tmp_path / "lora")), arguments(tmp_path / "child")
    load_causal_lm(config, args)
    written = (tmp_path / "child/base/model.safetensors").stat().st_mtime_ns
    load_causal_lm(config, args)
    assert (tmp_path / "child/base/model.safetensors").stat().st_mtime_ns == written
    changed = save_adapter(tiny_model_dir, tmp_path / "lora", tiny_model_dir)
    assert (logits(load_causal_lm(config, args)) - logits(changed)).abs().max() < 1e-5


def test_a_4bit_child_quantises_the_merged_base(tmp_path, adapter_dir):
    config = ModelConfig(model_name_or_path=str(adapter_dir), use_peft=True, load_in_4bit=True)
    model = load_causal_lm(config, arguments(tmp_path / "child"))
    assert model.is_loaded_in_4bit
    parent = logits(AutoPeftModelForCausalLM.from_pretrained(adapter_dir))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "child/base")
    assert (logits(whole) - parent).abs().max() < 1e-5
    assert 0 < (logits(model) - parent).abs().mean() < 0.2 * parent.abs().mean()


def test_a_chain_whose_base_is_gone_is_refused(tmp_path, tiny_model_dir):
    save_adapter(tiny_model_dir, tmp_path / "lora", tiny_model_dir)
    file = tmp_path / "lora/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "./gone"}))
    with pytest.raises(Refusal, match="adapter-base-missing"):
        load_causal_lm(ModelConfig(model_name_or_path=str(tmp_path / "lora")), arguments(tmp_path / "child"))


def test_a_base_that_was_deleted_is_no_hub_id(tmp_path, tiny_model_dir, monkeypatch):
    """`runs/base` has the shape of a Hub id; the directory `runs` says that it is none."""
    monkeypatch.chdir(tmp_path)
    save_adapter(tiny_model_dir, Path("runs/lora"), tiny_model_dir)
    file = Path("runs/lora/adapter_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "runs/base"}))
    with pytest.raises(Refusal, match="adapter-base-missing"):
        merge_adapter("runs/lora", AutoModelForCausalLM)
    with pytest.raises(Refusal, match="adapter-base-missing"):
        load_saved("runs/lora")


def test_lora_covers_every_linear_layer_but_the_head_unless_told_otherwise(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    adapted = get_peft_model(model, peft_config(ModelConfig(use_peft=True, lora_r=4)))
    assert [n for n in names if not hasattr(adapted.get_submodule(f"base_model.model.{n}"), "lora_A")] == []
    assert not hasattr(adapted.get_submodule("base_model.model.lm_head"), "lora_A")
    assert peft_config(
        ModelConfig(use_peft=True, lora_target_modules=["q_proj", "v_proj"])
    ).target_modules == {
        "q_proj",
        "v_proj",
    }
    assert peft_config(ModelConfig()) is None


def test_a_parent_without_weights_or_tokenizer_is_refused(tmp_path):
    config = ModelConfig(model_name_or_path=str(tmp_path))
    with pytest.raises(Refusal, match="parent-no-weights"):
        load_causal_lm(config, arguments(tmp_path / "child"))
    with pytest.raises(Refusal, match="parent-no-tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_reward_model_without_its_head_is_refused(tmp_path, tiny_model_dir):
    config = ModelConfig(model_name_or_path=str(tiny_model_dir))
    with pytest.raises(Refusal, match="reward-head-missing"):
        load_reward_model(config, arguments(tmp_path / "a"))
    fresh = load_reward_model(config, arguments(tmp_path / "a"), new_head=True)
    fresh.save_pretrained(tmp_path / "reward")
    again = load_reward_model(
        ModelConfig(model_name_or_path=str(tmp_path / "reward")), arguments(tmp_path / "a")
    )
    assert torch.equal(again.score.weight, fresh.score.weight)


def test_a_reward_adapter_brings_its_head(tmp_path, tiny_model_dir):
    config = ModelConfig(model_name_or_path=str(tiny_model_dir))
    reward = get_peft_model(
        load_reward_model(config, arguments(tmp_path / "a"), new_head=True),
        LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", init_lora_weights=False),
    )
    reward.save_pretrained(tmp_path / "reward")
    load_tokenizer(str(tiny_model_dir)).save_pretrained(tmp_path / "reward")
    again = load_reward_model(
        ModelConfig(model_name_or_path=str(tmp_path / "reward")), arguments(tmp_path / "b")
    )
    assert (logits(again) - logits(reward)).abs().max() < 1e-5


def test_the_turn_end_is_read_from_the_template(tiny_tokenizer_dir):
    tokenizer = load_tokenizer(str(tiny_tokenizer_dir))
    assert turn_end(tokenizer) == "<|im_end|>"
    tokenizer.chat_template = None
    assert turn_end(tokenizer) is None


@pytest.mark.parametrize("written", [{}, {"base_model_name_or_path": None}])
def test_an_adapter_that_names_no_base_is_refused(tmp_path, written):
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    with pytest.raises(Refusal, match="adapter-base-missing"):
        merge_adapter(str(tmp_path), AutoModelForCausalLM)


def test_an_adapter_on_a_relative_path_is_loaded_from_another_directory(
    tmp_path, tiny_model_dir, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/base").symlink_to(tiny_model_dir)
    monkeypatch.chdir(tmp_path / "here")
    config = ModelConfig(model_name_or_path="base", use_peft=True)
    model = load_causal_lm(config, arguments("lora"))
    get_peft_model(model, peft_config(config)).save_pretrained("lora")
    monkeypatch.chdir("/")
    assert require_adapter_base(str(tmp_path / "here/lora")) == str(tmp_path / "here/base")


def test_a_base_that_moved_together_with_its_adapter_is_found_by_the_record(tmp_path):
    for name in ("lora", "base"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    lora = tmp_path / "runs/lora"
    (lora / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone/runs/base"}')
    record = {"status": "done", "parents": {"model": {"path": "runs/base", "relative": "../base"}}}
    (lora / "run.json").write_text(json.dumps(record))
    assert require_adapter_base(str(lora)) == str(tmp_path / "runs/base")
    # An adapter below it was merged first: that directory alone is not the base.
    (tmp_path / "runs/base/adapter_config.json").write_text("{}")
    with pytest.raises(Refusal, match="adapter-base-missing"):
        require_adapter_base(str(lora))
