"""`data.truncation: drop`: a row that max_length would cut is left out and counted."""

import pytest
from cached_rows import build
from preference_runs import message, pairs, thumbs
from sound_rows import assistant, chat, user

from lifecycle_recipes.finding import Refusal

pytestmark = pytest.mark.usefixtures("own_cache")
LONG = "Blue and red and green. " * 12
SHORT_CHATS = [chat(user(f"Question {i}?"), assistant("Yes.")) for i in range(9)]
# Stage -> (rows that fit, rows that max_length would cut).
ROWS = {
    "sft": (SHORT_CHATS, [chat(user(f"Long {i}?"), assistant(LONG)) for i in range(3)]),
    "dpo": (pairs(9), [row | {"rejected": message(LONG)} for row in pairs(3)]),
    "kto": (thumbs(9), [row | {"completion": message(LONG)} for row in thumbs(3)]),
}


def built(stage_recipe, chat_model, stage, rows, truncation, **train):
    path = stage_recipe(stage, chat_model, rows, train={"max_length": 64} | train)
    trainer, run = build(path, "--data.truncation", truncation)
    return trainer, run.notes["data"]


@pytest.mark.parametrize("stage", ROWS)
def test_rows_that_would_be_cut_are_left_out_and_counted(stage_recipe, chat_model, stage):
    fitting, longer = ROWS[stage]
    cut, ledger = built(stage_recipe, chat_model, stage, [*fitting, *longer], "cut")
    assert (len(cut.train_dataset), ledger["truncated"], ledger["left_out"]) == (12, 3, {})
    dropped, ledger = built(stage_recipe, chat_model, stage, [*fitting, *longer], "drop")
    assert (len(dropped.train_dataset), ledger["truncated"]) == (9, 0)
    assert ledger["left_out"] == {"longer than train.max_length": 3}
    assert ledger["rows_out"] == 9 + ledger["eval_rows"]


def test_packing_gets_the_other_rows_whole(stage_recipe, chat_model):
    rows = [*ROWS["sft"][0], *ROWS["sft"][1]]
    trainer, ledger = built(stage_recipe, chat_model, "sft", rows, "drop", packing=True)
    assert sum(map(len, trainer.train_dataset["seq_lengths"])) == 9
    assert ledger["left_out"] == {"longer than train.max_length": 3} and ledger["truncated"] == 0


def test_packing_that_splits_a_row_loses_nothing_and_drops_nothing(stage_recipe, chat_model):
    rows = [*ROWS["sft"][0], *ROWS["sft"][1]]
    options = {"packing": True, "packing_strategy": "bfd_split"}
    _, ledger = built(stage_recipe, chat_model, "sft", rows, "drop", **options)
    assert ledger["left_out"] == {}


def test_no_row_is_left(stage_recipe, chat_model):
    with pytest.raises(Refusal, match="no-trained-tokens.*every train row is longer"):
        built(stage_recipe, chat_model, "sft", ROWS["sft"][1], "drop")
