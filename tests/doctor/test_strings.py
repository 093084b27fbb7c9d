"""Rows of strings for a model with a chat template, and prompts that end inside a token."""

import pytest
from token_recipes import codes, find

HH = "\n\nHuman: Is it red?\n\nAssistant:"


def pair(prompt: str, chosen: str = " Yes.", rejected: str = " No.") -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


DIALOGUES = {
    "hh": ("dpo", pair(HH)),
    "hh, without a prompt": ("reward", {"chosen": f"{HH} Yes.", "rejected": f"{HH} No."}),
    "human": ("kto", {"prompt": "Human: Is it red?", "completion": " Yes.", "label": True}),
    "user": ("dpo", pair("User: Is it red?")),
    "Llama 2": ("ppo", {"prompt": "[INST] Is it red? [/INST]"}),
    "Llama 2, bos": ("ppo", {"prompt": "<s>[INST] Is it red? [/INST]"}),
    "a reply": ("dpo", pair("Is it red?", "Assistant: Yes.")),
}


@pytest.mark.parametrize(("stage", "row"), DIALOGUES.values(), ids=DIALOGUES)
def test_a_dialogue_as_text_is_an_error(chat_model, stage, row):
    plain = {key: value and "Is it blue?" for key, value in row.items()}
    found = find(stage, chat_model, [plain, row])
    assert ("plain-text-dialogue", "error") in codes(found)
    (finding,) = (f for f in found if f.code == "plain-text-dialogue")
    assert finding.where == "rows.jsonl:2" and "1 row (rows.jsonl:2)" in finding.message
    assert ("format: hh" in finding.fix) == ("prompt" not in row), "hh reads the prompt from the replies"


def test_chatml_as_text_is_an_error(chat_model):
    found = find("dpo", chat_model, [pair("<|im_start|>user\nIs it red?<|im_end|>\n")])
    assert ("plain-text-dialogue", "error") in codes(found)


def test_other_strings_are_a_warning(chat_model):
    rows = [pair(f"Is {i} red?") for i in range(8)]
    (finding,) = found = find("dpo", chat_model, rows)
    assert codes(found) == [("strings-for-chat", "warning")] and "`format: prompt_completion`" in finding.fix


def test_a_model_without_a_template_reads_text(chat_model):
    (chat_model / "chat_template.jinja").unlink()
    assert find("dpo", chat_model, [pair(HH) for _ in range(4)]) == []


@pytest.mark.parametrize(
    ("prompt", "chosen", "split"), [("Is it re", "d?", True), ("Is it red?", "Yes.", False)]
)
def test_a_prompt_that_ends_inside_a_token(tmp_path, prompt, chosen, split):
    from token_recipes import rows_of
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from lifecycle_recipes.doctor.row_level.strings import find_split_prompts
    from lifecycle_recipes.doctor.row_level.token_lengths import measure, take

    letters = {letter: i for i, letter in enumerate(dict.fromkeys("Is itred?Yo. N"))}
    core = Tokenizer(models.BPE(letters | {"ed": len(letters)}, [("e", "d")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    sample = take(rows_of([pair(prompt, chosen, "No.")]), "train")
    for stage in ("dpo", "reward"):
        found = codes(find_split_prompts(measure(tokenizer, None, sample, stage), sample))
        assert found == ([("prompt-split", "warning")] if split and stage == "dpo" else [])
