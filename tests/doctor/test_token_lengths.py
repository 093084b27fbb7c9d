"""Level 2, lengths: rows that a limit cuts, measured as the trainer of their stage cuts them."""

import json

import pytest
from repository import ROOT
from token_recipes import chat, codes, find, rows_of

from lifecycle_recipes.doctor.row_level import token_lengths as token_rows
from lifecycle_recipes.doctor.row_level import truncation as cuts


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
        assert "1 row (4)" in found[0].message

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
        assert codes(find("sft", chat_model, rows)) == [("answers-all-cut", "error")]

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
        columns = {"dpo": ["chosen", "rejected"], "reward": ["chosen", "rejected"], "kto": ["completion"]}
        sample = token_rows.take(rows_of(rows), "train", columns.get(stage, ["prompt"]))
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

    def test_rows_with_tools(self, chat_model):
        (chat_model / "chat_template.jinja").write_text((ROOT / "chat_templates/qwen3.jinja").read_text())
        tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])
        rows = [chat("Red."), chat("Red.") | {"tools": tools}]
        short, long = token_rows.measure(*self.measured_sft(chat_model, rows))
        assert long.whole > short.whole + 50
        assert find("sft", chat_model, rows) == []

    def measured_sft(self, chat_model, rows):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(chat_model)
        return (
            tokenizer,
            tokenizer.chat_template,
            token_rows.take(rows_of(rows), "train", ["messages"]),
            "sft",
        )
