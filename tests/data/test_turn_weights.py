"""Turns with `weight: 0` or `train: false` are read by the model and are not part of the loss."""

import pytest
from cached_rows import build
from sound_rows import assistant, chat, user

from lifecycle_recipes.data.turn_weights import without_untrained
from lifecycle_recipes.finding import Refusal

pytestmark = pytest.mark.usefixtures("own_cache")
KEPT_OUT = [{"weight": 0}, {"train": False}, {"weight": 0, "train": False}]


def conversation(number: int, first: dict, second: dict) -> dict:
    asked = user(f"Question {number}?")
    return chat(asked, assistant(f"one {number}") | first, asked, assistant(f"two {number}") | second)


def texts(trainer, dataset) -> tuple[str, str]:
    """(all tokens, all supervised tokens) of a set of rows."""
    whole = [i for row in dataset for i in row["input_ids"]]
    supervised = [i for row in dataset for i in row["labels"] if i != -100]
    return trainer.processing_class.decode(whole), trainer.processing_class.decode(supervised)


@pytest.mark.parametrize("packing", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("keys", KEPT_OUT, ids=str)
def test_the_loss_leaves_a_turn_out_and_the_model_reads_it(stage_recipe, chat_model, packing, keys):
    rows = [conversation(i, keys, {}) for i in range(4)] + [conversation(i, {}, keys) for i in range(4, 8)]
    options = {"packing": packing, "max_length": 200}
    trainer, _ = build(stage_recipe("sft", chat_model, rows, train=options))
    for dataset in (trainer.train_dataset, trainer.eval_dataset):
        whole, supervised = texts(trainer, dataset)
        for i in range(8):
            trained, left_out = ("two", "one") if i < 4 else ("one", "two")
            assert f"{left_out} {i}<|im_end|>" in whole and f"{trained} {i}<|im_end|>" in supervised
            assert f"{left_out} {i}" not in supervised


def test_weights_of_one_change_nothing(stage_recipe, chat_model):
    plain, weighted = (
        build(stage_recipe("sft", chat_model, [conversation(i, keys, keys) for i in range(8)]))[0]
        for keys in ({}, {"weight": 1, "train": True})
    )
    assert plain.train_dataset["labels"] == weighted.train_dataset["labels"]


def test_a_template_that_rewrites_earlier_turns_is_refused(tiny_tokenizer):
    template = (
        "{% for m in messages %}{% generation %}{{ m.content if loop.last else 'gone' }}<|im_end|>"
        "{% endgeneration %}{% endfor %}"
    )
    row = conversation(1, {"weight": 0}, {})
    whole = tiny_tokenizer.apply_chat_template(
        row["messages"], chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    supervised = [bool(bit) for bit in whole["assistant_masks"]]
    with pytest.raises(Refusal, match="message 2 is rendered differently if others follow"):
        without_untrained(tiny_tokenizer, template, row, whole["input_ids"], supervised)
