"""lm-eval tasks over a saved model, against numbers worked out by hand on tiny real models."""

import json
import shutil

import pytest

from lifecycle_recipes.finding import Refusal


def test_the_desk_tasks_on_an_assistant_that_says_one_word(
    scripted, desk_config, measured, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the tasks' data paths do not depend on where one stands
    tasks = ["desk_contract", "desk_answers", "desk_facts", "desk_wiki"]
    metrics, notes, generated = measured(scripted("red", ends=True), desk_config(tasks=tasks, samples=2))
    assert metrics["desk_contract.kept"] == pytest.approx(3 / 5)
    assert metrics["desk_contract.stops"] == 1.0
    assert metrics["desk_contract.rubric"] == metrics["rubric"] == pytest.approx(3 / 5)
    # Services 1, 3 and 5 were never asked for; none is red. Three, two and two questions.
    assert metrics["desk_answers.correct"] == 0.0
    assert notes["samples"] == [
        {"prompt": "word about service 0?", "reply": "red"},
        {"prompt": "word about service 1?", "reply": "red"},
    ]
    # Five requests, once for rubric and contract together, and seven questions.
    assert len(generated) == len(set(generated)) == 5 + 7
    assert not any("stderr" in name or "alias" in name for name in metrics)
    assert set(metrics) == {
        *("desk_contract.kept", "desk_contract.stops", "desk_contract.rubric", "rubric"),
        *("desk_answers.correct", "desk_facts.acc", "desk_wiki.bits_per_byte"),
    }


def test_an_assistant_that_never_stops(scripted, desk_config, measured):
    config = desk_config(tasks=["desk_contract", "desk_answers"], max_new_tokens=96)
    metrics, _, _ = measured(scripted("green", ends=False), config)
    assert metrics["desk_contract.stops"] == 0.0


def test_an_answer_counts_only_when_no_other_choice_is_named(scripted, desk_config, measured):
    right, _, _ = measured(scripted("It is green", ends=True), desk_config(tasks=["desk_answers"]))
    assert right["desk_answers.correct"] == pytest.approx(5 / 7)  # services 1 and 5 are green, 3 is white
    both, _, _ = measured(scripted("green, blue", ends=True), desk_config(tasks=["desk_answers"]))
    assert both["desk_answers.correct"] == 0.0


def log_probability(model, ids: list[int], scored: int) -> float:
    """Natural log-probability of the last `scored` of `ids`."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    first = len(ids) - scored
    return sum(logits[i - 1, ids[i]].item() for i in range(first, len(ids)))


def test_bits_per_byte_and_facts_by_hand(own_model_dir, small_desk, desk_config, measured):
    from math import log

    from lifecycle_recipes.models.saved import load_saved

    saved = load_saved(str(own_model_dir))
    start = saved.tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def ids(text):
        return saved.tokenizer(text, add_special_tokens=False)["input_ids"]

    metrics, _, generated = measured(
        own_model_dir, desk_config(tasks=["desk_facts", "desk_wiki"], prompts=None, rubric=None)
    )
    texts = [
        json.loads(line)["text"]
        for line in (small_desk / "world/wiki_heldout.jsonl").read_text().splitlines()
    ]
    nats = -sum(log_probability(saved.model, [start, *ids(t)], len(ids(t))) for t in texts)
    expected = nats / log(2) / sum(len(t.encode()) for t in texts)
    assert metrics["desk_wiki.bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    rows = [json.loads(line) for line in (small_desk / "world/facts.jsonl").read_text().splitlines()]
    rows = list({row["stem"]: row for row in rows}.values())
    right = 0
    for row in rows:
        stem = [start, *ids(row["stem"])]
        scores = [
            log_probability(saved.model, stem + (c := ids(" " + choice)), len(c)) for choice in row["choices"]
        ]
        right += scores.index(max(scores)) == row["answer"]
    assert metrics["desk_facts.acc"] == pytest.approx(right / len(rows))
    assert not generated


def test_bits_per_byte_do_not_depend_on_which_token_ends_a_turn(
    own_model_dir, desk_config, measured, tmp_path
):
    from transformers import AutoTokenizer

    path = tmp_path / "chat"
    shutil.copytree(own_model_dir, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.eos_token = tokenizer.bos_token = "<|im_end|>"
    tokenizer.save_pretrained(path)
    config = desk_config(tasks=["desk_wiki"], prompts=None, rubric=None)
    assert measured(path, config)[0] == measured(own_model_dir, config)[0]


def test_likelihood_tasks_never_see_the_chat_template(own_model_dir, desk_config, measured):
    config = {"tasks": ["desk_facts"], "prompts": None, "rubric": None}
    with_chat, without = desk_config(**config, chat=True), desk_config(**config, chat=False)
    assert measured(own_model_dir, with_chat)[0] == measured(own_model_dir, without)[0]


def test_a_limit_holds_everywhere(own_model_dir, desk_config, measured, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(own_model_dir, path)
    _, notes, generated = measured(path, desk_config(tasks=["desk_answers"], limit=2))
    assert len(generated) == 4 and notes["evaluation"]["prompts"] == 2


def test_without_a_chat_template_an_assistant_cannot_be_asked(own_model_dir, desk_config, measured, tmp_path):
    path = tmp_path / "plain"
    shutil.copytree(own_model_dir, path)
    (path / "chat_template.jinja").unlink()
    for config in (desk_config(), desk_config(tasks=["desk_answers"], prompts=None, rubric=None)):
        with pytest.raises(Refusal, match="no-chat-template"):
            measured(path, config)
    assert "rubric" in measured(path, desk_config(chat=False))[0]
    facts = desk_config(tasks=["desk_facts"], prompts=None, rubric=None)
    assert "desk_facts.acc" in measured(path, facts)[0]


def test_a_reward_model_is_refused(tiny_reward_dir, desk_config, measured):
    with pytest.raises(Refusal, match="not-a-language-model"):
        measured(tiny_reward_dir, desk_config())
