"""Level 2, lengths: rows that a limit cuts, measured as the trainer of their stage cuts them."""

import json

import pytest
from repository import ROOT
from token_recipes import chat, codes, find, raw_recipe, rows_of

from lifecycle_recipes.doctor.row_level import token_lengths as token_rows
from lifecycle_recipes.doctor.row_level import truncation as cuts
from lifecycle_recipes.doctor.row_level.tokens import find_in_tokens
from lifecycle_recipes.models.config_file import longest_sequence


def edit_config(model, **values) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


LONG = "Blue, and then something that goes on. " * 10  # beyond the 256 positions of the tiny model
ASKED = [{"role": "user", "content": LONG}]
YES, NO = ([{"role": "assistant", "content": word}] for word in ("Yes.", "No."))
LONG_ROWS = {
    "sft": chat("Red.", LONG),
    "dpo": {"prompt": ASKED, "chosen": YES, "rejected": NO},
    "reward": {"prompt": ASKED, "chosen": YES, "rejected": NO},
    "kto": {"prompt": ASKED, "completion": YES, "label": True},
}


class TestPositions:
    """A row beyond the model's positions ends with an index error, or in positions that were never trained."""

    def found(self, stage, model, train, long=1):
        short = json.loads(json.dumps(LONG_ROWS[stage]).replace(LONG, "Is it red?"))
        rows = [short] * 40 + [LONG_ROWS[stage]] * long
        return [f for f in find(stage, model, rows, train) if f.code == "block-too-long"]

    @pytest.mark.parametrize("stage", LONG_ROWS)
    def test_a_limit_below_them_truncates_the_row(self, chat_model, stage):
        assert self.found(stage, chat_model, {"max_length": 256}) == []

    @pytest.mark.parametrize(
        "train", [{"max_length": None}, {}, {"max_length": 512}], ids=["null", "default", "above"]
    )
    @pytest.mark.parametrize("stage", LONG_ROWS)
    def test_rows_above_them(self, chat_model, stage, train):
        (finding,) = self.found(stage, chat_model, train)
        assert finding.severity == "error" and "1 row (rows.jsonl:41): longer than" in finding.message
        assert finding.where.startswith("r.yaml:train") and "max_length: 256" in finding.fix
        assert self.found(stage, chat_model, train, long=0) == []

    def test_packed_rows_have_their_own(self, chat_model):
        train = {"packing": True, "max_length": 2048}
        assert self.found("sft", chat_model, train, long=0) == []
        (finding,) = self.found("sft", chat_model, train)
        assert "1 row (rows.jsonl:41): longer than" in finding.message
        assert self.found("sft", chat_model, train | {"packing_strategy": "wrapped"}, long=0) != []

    def test_a_held_out_row_above_them(self, chat_model):
        sets = [*rows_of([chat("Red.")] * 4), *rows_of([chat("Red.", LONG)], "eval")]
        found = find_in_tokens(raw_recipe("sft", chat_model, {"max_length": None}), sets)
        assert codes(found) == [("block-too-long", "error")]

    @pytest.mark.parametrize(
        ("config", "positions"),
        [
            ({"max_position_embeddings": 256}, 256),
            ({"n_positions": 1024}, 1024),
            ({}, None),
            ({"max_position_embeddings": 256, "rope_scaling": None}, 256),
            ({"max_position_embeddings": 32768, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 131072),
            (
                {
                    "max_position_embeddings": 40960,
                    "rope_parameters": {
                        "rope_type": "yarn",
                        "factor": 4.0,
                        "original_max_position_embeddings": 32768,
                    },
                },
                131072,
            ),
            (
                {
                    "max_position_embeddings": 131072,
                    "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
                },
                131072,
            ),
            (
                {
                    "max_position_embeddings": 4096,
                    "rope_parameters": {
                        "full_attention": {"factor": 8.0},
                        "sliding_attention": {"rope_type": "default"},
                    },
                },
                32768,
            ),
        ],
    )
    def test_rope_scaling_raises_them(self, config, positions):
        assert longest_sequence(config) == positions

    def test_a_scaled_model_takes_longer_rows(self, chat_model):
        edit_config(chat_model, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0})
        assert self.found("sft", chat_model, {"max_length": 1024}) == []


class TestLengths:
    """ChatML nearly over bytes: an answer has about as many tokens as letters."""

    LONG = "Blue, and then something that goes on for quite a while before it comes to an end. " * 3

    def mixed(self, long: int, of: int = 10) -> list[dict]:
        return [chat(self.LONG if i < long else "Red.", f"Which colour is {i}?") for i in range(of)]

    def test_every_answer_cut(self, chat_model):
        found = find("sft", chat_model, self.mixed(10), {"max_length": 64})
        assert codes(found) == [("answers-all-cut", "error")]
        assert "max_length = 64" in found[0].message
        assert found[0].where == "r.yaml:train.max_length"

    def test_no_answer_left(self, chat_model):
        found = find("sft", chat_model, self.mixed(10), {"max_length": 8})
        assert codes(found) == [("no-trained-tokens", "error")]

    @pytest.mark.parametrize(("long", "severity"), [(2, "error"), (1, "warning")])
    def test_share_of_answers_cut(self, chat_model, long, severity):
        found = find("sft", chat_model, self.mixed(long), {"max_length": 64})
        assert codes(found) == [("answers-cut", severity)]
        assert f"{long * 10}.0% of 10 rows" in found[0].message
        assert "20%" in found[0].message

    def test_a_share_below_the_threshold_is_left_to_the_ledger(self, chat_model):
        assert find("sft", chat_model, self.mixed(1, of=200), {"max_length": 64}) == []

    def test_rows_without_a_label(self, chat_model):
        rows = self.mixed(0)
        rows[3] = chat("Red.", self.LONG)
        found = find("sft", chat_model, rows, {"max_length": 64})
        assert codes(found) == [("zero-label-rows", "warning")]
        assert "1 row (rows.jsonl:4)" in found[0].message

    def test_packing_that_splits_cuts_nothing(self, chat_model):
        train = {"max_length": 64, "packing": True}
        assert codes(find("sft", chat_model, self.mixed(5), train)) == [("answers-cut", "error")]
        assert find("sft", chat_model, self.mixed(5), train | {"packing_strategy": "bfd_split"}) == []
        assert find("sft", chat_model, self.mixed(5), {"max_length": None}) == []

    def test_the_default_is_upstreams(self, chat_model):
        from trl import DPOConfig, KTOConfig, RewardConfig, SFTConfig

        for config in (SFTConfig, DPOConfig, KTOConfig, RewardConfig):
            assert config.__dataclass_fields__["max_length"].default == cuts.DEFAULT_MAX_LENGTH
        rows = [chat(self.LONG * 20)] * 2
        wanted = [("block-too-long", "error"), ("answers-all-cut", "error")]  # the model has 256 positions
        assert codes(find("sft", chat_model, rows)) == wanted

    @pytest.mark.parametrize(
        ("stage", "code"), [("dpo", "answers-cut"), ("kto", "answers-cut"), ("reward", "rows-too-long")]
    )
    def test_other_stages(self, stage, code, chat_model, rows_of_stage):
        rows = [json.loads(json.dumps(row)) for row in rows_of_stage[stage]][:10]
        longest = {"role": "assistant", "content": self.LONG}
        for row in rows[:3]:
            column = "completion" if stage == "kto" else "chosen"
            row[column][-1] = longest
        lengths = token_rows.measure(*self.measured(chat_model, rows, stage))
        limit = max(length.whole for length in lengths[3:])
        found = find(stage, chat_model, rows, {"max_length": limit})
        assert codes(found) == [(code, "error")]
        assert "30.0%" in found[0].message
        prompts_only = max(length.prompt for length in lengths) - 1
        if stage != "reward":
            found = find(stage, chat_model, rows, {"max_length": prompts_only})
            assert {code for code, _ in codes(found)} & {"rows-too-long", "answers-all-cut"}

    def test_the_last_token_that_fits(self, chat_model):
        rows = [chat("Red."), chat("Green, or so.")]
        longest = token_rows.measure(*self.measured_sft(chat_model, rows))[1]
        assert longest.whole == longest.last + 2  # ChatML writes a line break after the turn end
        assert find("sft", chat_model, rows, {"max_length": longest.last + 1}) == []
        assert codes(find("sft", chat_model, rows, {"max_length": longest.last})) == [
            ("answers-cut", "error")
        ]

    def test_measures_what_the_trainer_makes_of_a_row(self, chat_model, rows_of_stage):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(chat_model)
        length = token_rows.measure(*self.measured(chat_model, rows_of_stage["dpo"], "dpo"))[0]
        row = rows_of_stage["dpo"][0]
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        replies = [
            tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=False)
            for side in ("chosen", "rejected")
        ]
        assert (length.prompt, length.whole) == (len(prompt), max(map(len, replies)))

    def measured(self, chat_model, rows, stage):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(chat_model)
        sample = token_rows.take(rows_of(rows), "train")
        return tokenizer, tokenizer.chat_template, sample, stage

    def test_prompts_without_room(self, chat_model, rows_of_stage):
        positions = {"response_length": 250}
        found = find("ppo", chat_model, rows_of_stage["ppo"], positions)
        assert codes(found) == [("prompts-too-long", "error")]
        rows = [*rows_of_stage["ppo"], {"prompt": [{"role": "user", "content": self.LONG * 9}]}]
        found = find("ppo", chat_model, rows, {"response_length": 100})
        assert codes(found) == [("rows-too-long", "warning")]

    def test_a_large_set_is_sampled_and_says_so(self, chat_model, monkeypatch):
        monkeypatch.setattr(token_rows, "MOST_ROWS", 50)
        found = find("sft", chat_model, self.mixed(60, of=100), {"max_length": 64})
        assert "50 sampled rows of 100" in found[0].message

    def test_rows_of_two_sources_are_listed_by_file(self, chat_model):
        one, two = rows_of(self.mixed(2)), rows_of(self.mixed(1))
        two[0].path = "more.jsonl"
        (finding,) = find_in_tokens(raw_recipe("sft", chat_model, {"max_length": 64}), [*one, *two])
        assert "3 rows (rows.jsonl, lines 1, 2 and more.jsonl:1)" in finding.message

    def test_rows_that_are_dropped_are_not_cut(self, chat_model):
        drop = {"data": {"truncation": "drop"}}
        found = find("sft", chat_model, self.mixed(1), {"max_length": 64}, **drop)
        assert codes(found) == [("rows-too-long", "warning")] and "left out" in found[0].message
        found = find("sft", chat_model, self.mixed(10), {"max_length": 64}, **drop)
        assert codes(found) == [("no-trained-tokens", "error")]

    def test_a_turn_that_is_not_trained_may_be_cut(self, chat_model):
        asked = {"role": "user", "content": "And now?"}
        last = {"role": "assistant", "content": self.LONG, "weight": 0}
        rows = [{"messages": [*chat("Red.")["messages"], asked, last]}] * 4
        assert find("sft", chat_model, rows, {"max_length": 64}) == []

    def test_rows_with_tools(self, chat_model):
        (chat_model / "chat_template.jinja").write_text((ROOT / "chat_templates/qwen3.jinja").read_text())
        tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])
        rows = [chat("Red."), chat("Red.") | {"tools": tools}]
        short, long = token_rows.measure(*self.measured_sft(chat_model, rows))
        assert long.whole > short.whole + 50
        edit_config(chat_model, max_position_embeddings=2048)
        assert find("sft", chat_model, rows) == []

    def measured_sft(self, chat_model, rows):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(chat_model)
        return (
            tokenizer,
            tokenizer.chat_template,
            token_rows.take(rows_of(rows), "train"),
            "sft",
        )
