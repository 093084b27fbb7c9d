"""All that is measured on a saved model, beside another one or alone."""

import json
import shutil

import pytest


def test_a_model_against_another(scripted, desk_config, measured, tiny_reward_dir):
    parent, child = scripted("green, blue", ends=True), scripted("red", ends=True)
    config = desk_config(tasks=["desk_contract"], against=parent, reward_model=tiny_reward_dir)
    metrics, notes, generated = measured(child, config)
    # The three requests for a word are won, the other two are ties at 0.
    assert metrics["rubric_win_rate"] == pytest.approx((3 + 2 / 2) / 5)
    assert metrics["kl"] > 0.1 and metrics["reward"] != metrics["reward_against"]
    assert notes["evaluation"]["against"] == parent and notes["evaluation"]["stopped"] == 5
    assert {path for path, _ in generated} == {parent, child}
    # The second child finds its parent's replies, and the first child its own.
    assert {path for path, _ in measured(scripted("red", ends=False), config)[2]}.isdisjoint({parent, child})
    again, _, generated = measured(child, config)
    assert again == metrics and not generated


def test_a_model_against_itself_is_a_tie(own_model_dir, desk_config, measured):
    metrics, _, _ = measured(own_model_dir, desk_config(against=str(own_model_dir)))
    assert metrics["rubric_win_rate"] == 0.5 and metrics["kl"] == pytest.approx(0, abs=1e-7)


def test_kl_is_left_out_between_vocabularies(own_model_dir, desk_config, measured, tmp_path):
    from transformers import AutoTokenizer

    path = tmp_path / "other"
    shutil.copytree(own_model_dir, path)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    AutoTokenizer.from_pretrained(path)
    metrics, notes, _ = measured(own_model_dir, desk_config(against=str(path)))
    assert "kl" not in metrics and "different vocabularies" in notes["evaluation"]["kl"]


def test_only_rank_0_measures(own_model_dir, desk_config, measured, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert measured(own_model_dir, desk_config()) == ({}, {}, [])


def test_our_metrics_combine(small_desk, desk_config):
    import evaluate

    from lifecycle_recipes.evals.metrics import Contract, Rubric, WinRate

    rubric = str(small_desk / "rubric.py")
    metrics = evaluate.combine(
        [Rubric(rubric), Contract(rubric), WinRate(rubric, against=["no word", "red"])]
    )
    lines = (small_desk / "world/requests_heldout.jsonl").read_text().splitlines()[:2]
    found = metrics.compute(predictions=["red", "not one word"], references=lines)
    assert found == {"rubric": 0.5, "contract": 0.5, "rubric_win_rate": 0.5}
