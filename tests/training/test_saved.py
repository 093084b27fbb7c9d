"""What a save left on disk, against the model that was trained: whatever is wrong with it is named."""

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from spoiled_weights import codes, edit, lose
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from lifecycle_recipes.models.safetensors_files import find_pickles
from lifecycle_recipes.training.saved_files import find_in_saved, wanted_of


@pytest.fixture
def full(tiny_model_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.save_pretrained(tmp_path / "full")
    return wanted_of(model), tmp_path / "full"


def adapted(kind, tiny_model_dir, path, **options):
    model = kind.from_pretrained(tiny_model_dir, **({"num_labels": 1} if "task_type" in options else {}))
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", **options))
    model.save_pretrained(path)
    return wanted_of(model), path


@pytest.fixture
def adapter(tiny_model_dir, tmp_path):
    return adapted(AutoModelForCausalLM, tiny_model_dir, tmp_path / "adapter")


def test_a_good_save_passes(full, adapter, tiny_model_dir, tmp_path):
    scorer = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
    scorer.save_pretrained(tmp_path / "scorer")
    scoring = adapted(
        AutoModelForSequenceClassification, tiny_model_dir, tmp_path / "scoring", task_type="SEQ_CLS"
    )
    dora = adapted(AutoModelForCausalLM, tiny_model_dir, tmp_path / "dora", use_dora=True)
    trained = {"modules_to_save": ["embed_tokens"]}
    embedding = adapted(AutoModelForCausalLM, tiny_model_dir, tmp_path / "embedding", **trained)
    for wanted, path in (full, adapter, scoring, dora, embedding, (wanted_of(scorer), tmp_path / "scorer")):
        assert find_in_saved(str(path), wanted) + find_pickles(str(path)) == [], path.name
    assert any("score" in name for name in scoring[0].shapes)


def test_tied_weights_need_one_of_their_names(tmp_path):
    config = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**config, num_attention_heads=2, tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    wanted = wanted_of(model)
    assert find_in_saved(str(tmp_path), wanted) == []
    edit(tmp_path / "model.safetensors", lambda t: t.pop("model.embed_tokens.weight"))
    (found,) = find_in_saved(str(tmp_path), wanted)
    assert found.message.endswith("lm_head.weight")


def test_experts_are_checked_by_their_names_on_disk(tmp_path):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**config, num_attention_heads=2, num_key_value_heads=2))
    model.save_pretrained(tmp_path)
    wanted = wanted_of(model)
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in wanted.shapes
    assert find_in_saved(str(tmp_path), wanted) == []


def test_shards_are_read_by_their_index(tiny_model_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert find_in_saved(str(tmp_path), wanted_of(model)) == []
    next(tmp_path.glob("model-00002*")).unlink()
    assert codes(find_in_saved(str(tmp_path), wanted_of(model))) == ["saved-incomplete"]


def turn(tensors):
    tensors["lm_head.weight"] = tensors["lm_head.weight"].T.contiguous()


def poison(tensors):
    tensors["model.norm.weight"][3] = float("nan")


def wrap(tensors):
    for name in list(tensors):
        tensors[f"module.{name}"] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lose, "saved-incomplete", "^1 .*: model.layers.1.mlp.up_proj.weight"),
        (turn, "saved-incomplete", "lm_head.weight first"),
        (poison, "non-finite", "^1 .*: model.norm.weight"),
        (wrap, "saved-incomplete", ": lm_head.weight"),
    ],
)
def test_wrong_tensors_are_named(full, change, code, words):
    wanted, path = full
    edit(path / "model.safetensors", change)
    found = find_in_saved(str(path), wanted)
    assert found[0].code == code and re.search(words, found[0].message)


def test_a_file_that_is_cut_short_is_named(full):
    wanted, path = full
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert codes(find_in_saved(str(path), wanted)) == ["saved-incomplete"]
    file.unlink()
    assert codes(find_in_saved(str(path), wanted)) == ["nothing-saved"]


def test_a_head_that_was_left_out_is_named(tiny_model_dir, tmp_path):
    scorer = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
    scorer.save_pretrained(tmp_path)
    edit(tmp_path / "model.safetensors", lambda tensors: tensors.pop("score.weight"))
    (found,) = find_in_saved(str(tmp_path), wanted_of(scorer))
    assert found.code == "saved-incomplete" and "score.weight" in found.message


def test_an_adapters_head_is_wanted_although_peft_would_not_save_it(tiny_model_dir, tmp_path):
    """Without a task type PEFT trains no head; one that is trained all the same must be in the file."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.model.score.weight.requires_grad_(True)
    model.save_pretrained(tmp_path)
    (found,) = find_in_saved(str(tmp_path), wanted_of(model))
    assert found.code == "saved-incomplete" and "score.weight" in found.message


def test_an_adapter_without_its_weights_is_named(adapter):
    wanted, path = adapter
    edit(path / "adapter_model.safetensors", lambda tensors: [tensors.pop(k) for k in list(tensors)[:4]])
    (found,) = find_in_saved(str(path), wanted)
    assert "4 trained weights are missing" in found.message
    (path / "adapter_model.safetensors").unlink()
    assert codes(find_in_saved(str(path), wanted)) == ["nothing-saved"]


def test_a_config_that_cannot_be_read_and_a_pickle_are_named(full):
    wanted, path = full
    (path / "config.json").write_text("{")
    assert "config.json cannot be read" in find_in_saved(str(path), wanted)[0].message
    torch.save({}, path / "pytorch_model.bin")
    torch.save({}, path / "training_args.bin")  # upstream writes it; no weights
    (found,) = find_pickles(str(path))
    assert found.code == "saved-pickled" and found.message.endswith("pytorch_model.bin")
