"""The pretrain stage, on the stock Trainer."""

import json

import pytest
import torch
from fake_runs import with_raw
from transformers import AutoModelForCausalLM, TrainingArguments
from trl import ModelConfig

from lifecycle_recipes.data.config import DataConfig, Source
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.record.run import Run
from lifecycle_recipes.stages.pretrain import Architecture, PretrainRecipe, TextConfig, build_trainer
from lifecycle_recipes.training.train import train_and_save

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="module")
def text_file(tmp_path_factory, tiny_texts):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_texts))
    return path


@pytest.fixture
def make_recipe(tmp_path, text_file, tiny_tokenizer_dir):
    def make(name="run", architecture=True, model=None, block_size=64, **train) -> PretrainRecipe:
        options = {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
        }
        options |= {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
        recipe = PretrainRecipe(
            text=TextConfig(block_size),
            data=DataConfig([Source(str(text_file))], eval_fraction=0.25),
            train=TrainingArguments(output_dir=str(tmp_path / name), **options | train),
            architecture=Architecture("llama", str(tiny_tokenizer_dir), dict(SHAPE))
            if architecture
            else None,
            model=model,
        )
        return with_raw(recipe, "pretrain")

    return make


def run_stage(recipe) -> Run:
    with Run(recipe.raw) as run:
        train_and_save(build_trainer(recipe, run), recipe, run)
    return run


def weights(model_or_dir) -> dict[str, torch.Tensor]:
    if not hasattr(model_or_dir, "state_dict"):
        model_or_dir = AutoModelForCausalLM.from_pretrained(model_or_dir)
    return {k: v.detach().clone() for k, v in model_or_dir.state_dict().items()}


def test_every_weight_moves_and_is_saved(make_recipe):
    recipe = make_recipe()
    with Run(recipe.raw) as run:
        trainer = build_trainer(recipe, run)
        before = weights(trainer.model)
        train_and_save(trainer, recipe, run)
    saved = weights(recipe.train.output_dir)
    assert before.keys() == saved.keys()
    assert not [k for k in before if torch.equal(before[k], saved[k])]
    assert all(torch.equal(v, saved[k]) for k, v in weights(trainer.model).items())
    record = json.loads((run.output_dir / "run.json").read_text())
    assert record["data"]["rows_in"] == record["data"]["rows_out"] == 64
    assert record["data"]["train"]["documents"] == 48 and record["data"]["eval"]["documents"] == 16
    assert record["tokens"] > 0 and record["layout"]["global_batch"] == 4
    assert 0 < run.metrics["eval_bits_per_byte"] < 8 and run.metrics["eval_perplexity"] > 1


def test_the_built_trainer_feeds_isolated_documents_with_eos_trained(make_recipe):
    with Run(make_recipe().raw) as run:
        trainer = build_trainer(make_recipe(), run)
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "position_ids", "labels"}
    assert batch["input_ids"].shape == (4, 64)
    assert (batch["labels"] == trainer.processing_class.eos_token_id).any()
    # The Trainer turns the cache off: with one, transformers would not look at position_ids for documents.
    assert trainer.model.config.use_cache is False
    row = {k: v[:1] for k, v in batch.items()}
    starts = (row["position_ids"][0] == 0).nonzero().flatten().tolist()
    start, end = starts[1], (starts + [64])[2]
    with torch.no_grad():
        packed = trainer.model(**row).logits[0, start:end]
        alone = trainer.model(input_ids=row["input_ids"][:, start:end]).logits[0]
    assert (packed - alone).abs().max() < 1e-5


def test_two_runs_give_the_same_weights_and_metrics(make_recipe):
    first, second = run_stage(make_recipe("a")), run_stage(make_recipe("b"))
    assert first.metrics == second.metrics
    ours, theirs = weights(first.output_dir), weights(second.output_dir)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    other = run_stage(make_recipe("c", seed=7))
    assert other.metrics["eval_loss"] != first.metrics["eval_loss"]


def test_it_continues_from_a_checkpoint(make_recipe, tiny_model_dir):
    model = ModelConfig(model_name_or_path=str(tiny_model_dir))
    recipe = make_recipe(architecture=False, model=model)
    with Run(recipe.raw) as run:
        trainer = build_trainer(recipe, run)
    parent = weights(tiny_model_dir)
    assert all(torch.equal(v, parent[k]) for k, v in weights(trainer.model).items())


def test_flash_attention_would_get_one_flat_row(make_recipe):
    with Run(make_recipe().raw) as run:
        collator = build_trainer(make_recipe(), run).data_collator
    collator.flatten = True
    batch = collator(
        [{"input_ids": [1, 5, 1], "seq_lengths": [3]}, {"input_ids": [1, 6], "seq_lengths": [2]}]
    )
    assert batch["input_ids"].shape == (1, 128)
    assert (batch["position_ids"][0] == 0).nonzero().flatten().tolist() == [0, 3, 64, 66]


@pytest.mark.parametrize(
    ("code", "message", "options"),
    [
        ("block-too-long", "128 positions", {"block_size": 129}),
        ("unknown-config-key", "hidden_size", {"config": {"hiden_size": 64}}),
        ("unknown-config-key", "architecture.tokenizer", {"config": {"vocab_size": 64}}),
        ("bad-config", "not a multiple", {"config": {"hidden_size": 65}}),
        ("bad-config", "hidden_size", {"config": {"hidden_size": "wide"}}),
        ("unknown-model-type", "'llama'", {"model_type": "lama"}),
        ("parent-no-tokenizer", "does not exist", {"tokenizer": "./nowhere"}),
    ],
)
def test_what_cannot_work_is_refused(make_recipe, code, message, options):
    recipe = make_recipe(**{k: v for k, v in options.items() if k in ("architecture", "block_size")})
    if "config" in options:
        recipe.architecture.config |= options["config"]
    for key in {"model_type", "tokenizer"} & set(options):
        setattr(recipe.architecture, key, options[key])
    with pytest.raises(Refusal, match=code) as refusal:
        build_trainer(recipe, None)
    assert message in str(refusal.value)
