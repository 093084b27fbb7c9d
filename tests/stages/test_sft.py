"""The sft stage, and the first stages of a life through `accelerate launch`."""

import json
import subprocess
import sys

import pytest
import torch
from fake_runs import with_raw
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from trl import ModelConfig, SFTConfig

from lifecycle_recipes.data.config import DataConfig, Source
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.load import load_causal_lm
from lifecycle_recipes.record.run import Run
from lifecycle_recipes.stages.sft import SFTRecipe, build_trainer
from lifecycle_recipes.training.train import train_and_save


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory, tiny_chat_rows):
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny_chat_rows))
    return path


@pytest.fixture
def make_recipe(tmp_path, chat_file, tiny_model_dir):
    def make(parent=None, name="run", train=None, **model) -> SFTRecipe:
        options = {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
        }
        options |= {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
        recipe = SFTRecipe(
            model=ModelConfig(model_name_or_path=str(parent or tiny_model_dir), **model),
            data=DataConfig([Source(str(chat_file))], eval_fraction=0.25),
            train=SFTConfig(output_dir=str(tmp_path / name), disable_tqdm=True, **options | (train or {})),
        )
        return with_raw(recipe, "sft")

    return make


def build(recipe):
    with Run(recipe.raw) as run:
        return build_trainer(recipe, run)


def train(recipe):
    with Run(recipe.raw) as run:
        trainer = build_trainer(recipe, run)
        before = {k: v.detach().clone() for k, v in trainer.model.named_parameters()}
        train_and_save(trainer, recipe, run)
    return trainer, before, json.loads((run.output_dir / "run.json").read_text())


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_only_the_assistants_text_and_turn_end_are_trained(make_recipe):
    trainer = build(make_recipe())
    tokenizer = trainer.processing_class
    for row in trainer.train_dataset:
        text = tokenizer.decode(row["input_ids"])
        wanted = "".join(
            turn.removeprefix("assistant\n") + "<|im_end|>"
            for turn in text.removeprefix("<|im_start|>")
            .removesuffix("<|im_end|>\n")
            .split("<|im_end|>\n<|im_start|>")
            if turn.startswith("assistant\n")
        )
        assert tokenizer.decode([i for i in row["labels"] if i != -100]) == wanted


def test_no_gradient_comes_from_predicting_a_prompt_token(make_recipe):
    """The head's whole gradient is that of the positions whose next token is the assistant's."""
    trainer = build(make_recipe())
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    hidden = {}
    head = trainer.model.lm_head
    hook = trainer.model.model.register_forward_hook(
        lambda m, i, out: hidden.update(h=out.last_hidden_state.detach())
    )
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    hook.remove()
    # Only positions whose next token is trained may contribute: rebuild the gradient from those alone.
    keep = batch["labels"][:, 1:] != -100
    states = hidden["h"][:, :-1][keep]
    error = torch.softmax(states @ head.weight.detach().T, -1)
    error[torch.arange(len(error)), batch["labels"][:, 1:][keep]] -= 1
    torch.testing.assert_close(head.weight.grad, error.T @ states / len(states), atol=1e-5, rtol=1e-3)


def test_the_mask_is_on_whatever_the_recipe_says(make_recipe):
    trainer = build(make_recipe(train={"assistant_only_loss": False}))
    assert any(label == -100 for label in trainer.train_dataset[0]["labels"])


def test_a_full_fine_tune_moves_every_weight_and_learns_to_stop(make_recipe, tmp_path):
    trainer, before, record = train(make_recipe())
    after = dict(trainer.model.named_parameters())
    assert not [k for k in before if torch.equal(before[k], after[k])]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|pad|>"
    assert GenerationConfig.from_pretrained(tmp_path / "run").eos_token_id == [1, 3]
    assert (
        tokenizer.chat_template
        == AutoTokenizer.from_pretrained(trainer.model.config._name_or_path).chat_template
    )
    assert record["data"]["rows_in"] == 32 == record["data"]["rows_out"]
    assert record["tokens"] > 0 and record["metrics"]["eval_loss"] > 0


def test_lora_moves_only_the_adapter_and_reloads_to_the_same_logits(make_recipe, tmp_path):
    recipe = make_recipe(use_peft=True, lora_r=4)
    trainer, before, _ = train(recipe)
    moved = {k for k, v in trainer.model.named_parameters() if not torch.equal(before[k], v)}
    assert moved == {k for k in before if "lora_" in k}
    ids = torch.tensor([trainer.train_dataset[0]["input_ids"]])
    trained = logits(trainer.model, ids)
    reloaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run")
    assert (logits(reloaded, ids) - trained).abs().max() < 1e-5
    child = load_causal_lm(ModelConfig(model_name_or_path=str(tmp_path / "run")), recipe.train)
    assert (logits(child, ids) - trained).abs().max() < 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "run").eos_token == "<|im_end|>"
    assert GenerationConfig.from_pretrained(tmp_path / "run").eos_token_id == [1, 3]


def test_qlora_on_a_lora_parent_starts_from_that_parent(make_recipe, tmp_path):
    parent, _, _ = train(make_recipe(name="lora", use_peft=True, train={"max_steps": 8}))
    recipe = make_recipe(tmp_path / "lora", name="qlora", use_peft=True, load_in_4bit=True)
    trainer, before, _ = train(recipe)
    assert trainer.model.get_base_model().is_loaded_in_4bit
    moved = {k for k, v in trainer.model.named_parameters() if not torch.equal(before[k], v)}
    assert moved == {k for k in before if "lora_" in k}
    ids = torch.tensor([parent.train_dataset[0]["input_ids"]])
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "qlora/base")
    assert (logits(base, ids) - logits(parent.model, ids)).abs().max() < 1e-4
    assert AutoPeftModelForCausalLM.from_pretrained(tmp_path / "qlora") is not None


def test_rows_that_lose_their_reply_are_counted_and_none_left_is_refused(make_recipe):
    recipe = make_recipe(name="short", train={"max_length": 52})
    with Run(recipe.raw) as run:
        trainer = build_trainer(recipe, run)
    data = json.loads((run.output_dir / "run.json").read_text())["data"]
    gone = data["left_out"]["no assistant token within train.max_length"]
    assert gone > 0 and data["truncated"] > 0
    assert data["rows_in"] == 32 == data["rows_out"] + gone
    assert data["rows_out"] == len(trainer.train_dataset) + len(trainer.eval_dataset)
    with pytest.raises(Refusal, match="no-trained-tokens"):
        build(make_recipe(name="none", train={"max_length": 8}))


def test_packed_rows_are_all_accounted_for(make_recipe):
    recipe = make_recipe(train={"packing": True, "max_length": 256})
    with Run(recipe.raw) as run:
        trainer = build_trainer(recipe, run)
    data = json.loads((run.output_dir / "run.json").read_text())["data"]
    assert len(trainer.train_dataset) < 24
    assert data["rows_out"] == 32 and data["left_out"] == {} and data["truncated"] == 0


LIFE = """
import sys
from lifecycle_recipes.stages import pretrain, sft, tokenizer
for stage, recipe in zip((tokenizer, pretrain, sft, sft), sys.argv[1:]):
    stage.main([recipe])
"""


@pytest.mark.model
def test_two_real_steps_of_each_stage_through_accelerate_launch(tmp_path, repo_root, tiny_texts, chat_file):
    """One launch for four stages, since importing TRL costs more than training them."""
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_texts))
    shape = "hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 2"
    steps = (
        "max_steps: 2, per_device_train_batch_size: 4, logging_steps: 1, report_to: none, save_strategy: 'no'"
    )
    recipes = {
        "tok": f"stage: tokenizer\ntokenizer: {{output_dir: {tmp_path}/tok, vocab_size: 300}}\n"
        f"data: {{sources: [{{path: {text}}}], eval_fraction: 0.1}}\n",
        "base": f"stage: pretrain\narchitecture: {{model_type: llama, tokenizer: {tmp_path}/tok, "
        f"config: {{{shape}, max_position_embeddings: 256}}}}\ntext: {{block_size: 64}}\n"
        f"data: {{sources: [{{path: {text}}}], eval_fraction: 0.1}}\n"
        f"train: {{output_dir: {tmp_path}/base, {steps}}}\ngate: [bits_per_byte < 9]\n",
    }
    # The base never saw the control tokens: an adapter must train their embedding.
    lora = ", use_peft: true, lora_modules_to_save: [embed_tokens, lm_head]"
    for name, model in (("full", ""), ("lora", lora)):
        recipes[name] = (
            f"stage: sft\nmodel: {{model_name_or_path: {tmp_path}/base{model}}}\n"
            f"data: {{sources: [{{path: {chat_file}}}], eval_fraction: 0.1}}\n"
            f"train: {{output_dir: {tmp_path}/{name}, {steps}}}\n"
        )
    for name, recipe in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(recipe)
    (tmp_path / "life.py").write_text(LIFE)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    command += ["--config_file", "accelerate_configs/cpu.yaml", str(tmp_path / "life.py")]
    command += [str(tmp_path / f"{name}.yaml") for name in recipes]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    records = {name: json.loads((tmp_path / name / "run.json").read_text()) for name in recipes}
    assert {r["status"] for r in records.values()} == {"done"}
    assert records["base"]["metrics"]["steps"] == records["full"]["metrics"]["steps"] == 2
    assert records["base"]["metrics"]["bits_per_byte"] > 0
    assert records["full"]["layout"]["distributed_type"] == "NO"
    assert records["full"]["parents"]["model"]["path"] == str(tmp_path / "base")
    # The base ends documents, the assistant ends turns; the adapter keeps its base beside it by name.
    assert AutoTokenizer.from_pretrained(tmp_path / "base").eos_token == "<|endoftext|>"
    assert AutoTokenizer.from_pretrained(tmp_path / "full").eos_token == "<|im_end|>"
    adapter = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tmp_path / "base")
