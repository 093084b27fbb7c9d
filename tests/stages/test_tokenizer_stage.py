"""The tokenizer stage."""

import json

import pytest
from transformers import AutoTokenizer

from lifecycle_recipes.evals.tokenizer import measure_tokenizer
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.special_tokens import SPECIAL_TOKENS
from lifecycle_recipes.stages.tokenizer import (
    TokenizerConfig,
    build_tokenizer,
    main,
)

TEMPLATE = "chat_templates/chatml.jinja"
HARD = ["naïve café ☃ 😀\n\n\t- it's 12345", " leading and  double ", "中文\r\nline"]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_any_text_survives_and_control_tokens_are_one_id(tmp_path, tiny_texts, kind, repo_root):
    config = TokenizerConfig(str(tmp_path), 300, kind, chat_template=str(repo_root / TEMPLATE))
    build_tokenizer(tiny_texts, config).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert [tokenizer.encode(t, add_special_tokens=False) for t in SPECIAL_TOKENS] == [[0], [1], [2], [3]]
    assert tokenizer.pad_token_id == 0 and tokenizer.eos_token_id == 1 == tokenizer.bos_token_id
    measured = measure_tokenizer(tokenizer, HARD)
    assert measured["round_trip"] == 1.0 and measured["unknown_rate"] == 0.0
    text = tiny_texts[0]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_two_bpe_trainings_give_the_same_bytes(tmp_path, tiny_texts, repo_root):
    config = TokenizerConfig("", 300, chat_template=str(repo_root / TEMPLATE))
    for name in "ab":
        build_tokenizer(tiny_texts, config).save_pretrained(tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_the_template_marks_the_assistants_text_and_its_turn_end(tiny_tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "port?"},
        {"role": "assistant", "content": "it is 80"},
    ]
    out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "it is 80<|im_end|>"
    # What is served is a prefix of what is trained.
    prompt = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, tokenize=False)
    assert tokenizer.apply_chat_template(messages, tokenize=False).startswith(prompt)
    with pytest.raises(Exception, match="unknown role"):
        tokenizer.apply_chat_template([{"role": "usr", "content": "a"}])


def test_what_cannot_work_is_refused(repo_root):
    template = str(repo_root / TEMPLATE)
    for code, config in {
        "vocab-too-small": TokenizerConfig("", 200, chat_template=template),
        "missing-file": TokenizerConfig("", 300, chat_template="none.jinja"),
        "missing-special-token": TokenizerConfig("", 300, special_tokens=["<|pad|>"], chat_template=template),
    }.items():
        with pytest.raises(Refusal, match=code):
            build_tokenizer(["a"], config)


def test_the_stage_writes_a_tokenizer_and_its_measures(tmp_path, tiny_texts, repo_root):
    data = tmp_path / "text.jsonl"
    data.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_texts))
    recipe = tmp_path / "tokenizer.yaml"
    recipe.write_text(
        f"stage: tokenizer\ntokenizer: {{output_dir: {tmp_path}/out, vocab_size: 300, "
        f"chat_template: {repo_root / TEMPLATE}}}\n"
        f"data: {{sources: [{{path: {data}}}], eval_fraction: 0.25}}\n"
    )
    main([str(recipe)])
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["status"] == "done"
    assert record["metrics"]["bytes_per_token"] > 1.5 and record["metrics"]["round_trip"] == 1.0
    assert record["data"]["rows_in"] == 64 and record["data"]["eval_rows"] == 16
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 300
