"""The reward stage: its head is trained, saved and reloaded, and read where PPO will read it."""

import json

import pytest
import torch
from preference_runs import LORA, kept_trainer, moved, pairs, snapshot, write_recipe

from lifecycle_recipes.doctor.trainer_level.trial_build import TrialRun
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.saved import load_reward
from lifecycle_recipes.recipe.read import load_recipe
from lifecycle_recipes.stages import reward


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_dir):
    """(recipe, trainer, weights before) of two steps, saved by the stage itself."""
    folder = tmp_path_factory.mktemp("reward")
    with kept_trainer(reward) as kept:
        reward.main([write_recipe(folder, "reward", pairs(), tiny_model_dir)])
    return folder / "run", kept.trainer, kept.before


def test_every_weight_moves_and_the_record_has_the_held_out_accuracy(trained):
    path, trainer, before = trained
    assert moved(trainer.model, before) == set(before)
    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "done"
    assert record["metrics"]["steps"] == 2
    assert 0 <= record["metrics"]["pair_accuracy"] <= 1
    assert "eval_loss" in record["metrics"]
    assert record["data"]["eval_rows"] == 9


def test_the_head_survives_saving(trained):
    path, trainer, _ = trained
    saved = load_reward(str(path))
    assert torch.equal(saved.model.score.weight, trainer.model.score.weight)
    assert saved.model.config.pad_token_id == saved.tokenizer.pad_token_id is not None


def test_pair_accuracy_counts_pairs_not_batches(trained):
    # 9 held-out pairs in batches of 8: upstream weighs the last one like the other 8.
    path, trainer, _ = trained
    model, rows = load_reward(str(path)).model, trainer.eval_dataset

    def score(ids):
        return model(input_ids=torch.tensor([ids])).logits.item()

    right = [score(row["chosen_ids"]) > score(row["rejected_ids"]) for row in rows]
    assert reward.measure_pairs(str(path), trainer)["pair_accuracy"] == pytest.approx(sum(right) / 9)


def test_pairs_end_with_the_turn_end(trained):
    _, trainer, _ = trained
    end = trainer.processing_class.convert_tokens_to_ids("<|im_end|>")
    for rows in (trainer.train_dataset, trainer.eval_dataset):
        assert {ids[-1] for side in ("chosen_ids", "rejected_ids") for ids in rows[side]} == {end}


def test_a_prompt_in_text_beside_whole_conversations(tmp_path, tiny_model_dir):
    """The format of HuggingFaceH4/ultrafeedback_binarized: the conversations begin with the prompt."""
    from lifecycle_recipes.doctor.check import check

    rows = pairs()
    whole = [
        {
            "prompt": row["prompt"][-1]["content"],
            "chosen": row["prompt"] + row["chosen"],
            "rejected": row["prompt"] + row["rejected"],
        }
        for row in rows
    ]
    built = []
    for name, given in (("apart", rows), ("whole", whole)):
        (tmp_path / name).mkdir()
        path = write_recipe(tmp_path / name, "reward", given, tiny_model_dir)
        without = ["--data.eval_sources", "[]"]
        assert not check(path, without, upto=2).errors
        trainer = reward.build_trainer(load_recipe(reward.RewardRecipe, [path, *without]), TrialRun())
        built.append(trainer.train_dataset.to_list())
    assert built[0] == built[1]


def test_rows_longer_than_max_length_are_counted(tmp_path, tiny_model_dir):
    rows = pairs()
    rows[20]["chosen"][0]["content"] = "very long " * 40
    run = TrialRun()
    recipe = write_recipe(tmp_path, "reward", rows, tiny_model_dir, train={"max_length": 100})
    trainer = reward.build_trainer(load_recipe(reward.RewardRecipe, [recipe]), run)
    assert len(trainer.train_dataset) == 23
    ledger = run.notes["data"]
    assert ledger["left_out"] == {"longer than train.max_length": 1}
    assert ledger["rows_in"] == ledger["rows_out"] + 1


def test_pairs_without_a_preference_are_left_out_and_counted(tmp_path, tiny_model_dir):
    rows, run = pairs(), TrialRun()
    rows[20]["chosen"] = rows[20]["rejected"]  # a training row; row 3 is a held-out one too
    rows[3]["chosen"] = rows[3]["rejected"]
    recipe = write_recipe(tmp_path, "reward", rows, tiny_model_dir)
    trainer = reward.build_trainer(load_recipe(reward.RewardRecipe, [recipe]), run)
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (22, 8)
    ledger = run.notes["data"]
    assert ledger["left_out"] == {"chosen equals rejected": 3}
    assert (ledger["rows_in"], ledger["rows_out"], ledger["eval_rows"]) == (33, 30, 8)


def test_lora_trains_adapter_and_head_only_and_reloads(tmp_path, tiny_model_dir):
    recipe = load_recipe(
        reward.RewardRecipe, [write_recipe(tmp_path, "reward", pairs(), tiny_model_dir, model=LORA)]
    )
    trainer = reward.build_trainer(recipe, TrialRun())
    before = snapshot(trainer.model)
    trainer.train()
    changed = moved(trainer.model, before)
    assert changed == {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert any("score.modules_to_save" in name for name in changed)
    assert all("lora_" in name or "score.modules_to_save" in name for name in changed)
    trainer.save_model()
    rows = trainer.eval_dataset[0]["chosen_ids"]
    saved = load_reward(recipe.train.output_dir)
    ids = torch.tensor([rows])
    trainer.model.eval()
    assert torch.allclose(saved.model(input_ids=ids).logits, trainer.model(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ({"rejected": pairs()[0]["rejected"]}, "missing-column", "'chosen'"),
        (pairs()[0] | {"chosen": []}, "empty-reply", "no chosen"),
    ],
)
def test_bad_pairs_are_refused(tmp_path, tiny_model_dir, row, code, message):
    rows = [row] if code == "missing-column" else [*pairs(3), row]
    recipe = load_recipe(reward.RewardRecipe, [write_recipe(tmp_path, "reward", rows, tiny_model_dir)])
    with pytest.raises(Refusal) as refusal:
        reward.build_trainer(recipe, TrialRun())
    assert refusal.value.findings[0].code == code
    assert message in refusal.value.findings[0].message


def test_gradients_pass_4_bit_weights_after_an_evaluation_as_before(tmp_path, tiny_model_dir):
    """On a CPU with AVX512-BF16 bitsandbytes would repack them, and the first layers would learn nothing."""
    quantised = LORA | {"load_in_4bit": True, "dtype": "bfloat16"}
    recipe = load_recipe(
        reward.RewardRecipe, [write_recipe(tmp_path, "reward", pairs(), tiny_model_dir, model=quantised)]
    )
    model = reward.build_trainer(recipe, TrialRun()).model
    ids = torch.arange(4, 20)[None]

    def first_gradient():
        model.train().zero_grad()
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
        weights = dict(model.named_parameters())
        return next(w.grad for name, w in weights.items() if "layers.0" in name and "lora_B" in name).clone()

    before = first_gradient()
    with torch.no_grad():
        model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert before.any() and torch.equal(first_gradient(), before)
