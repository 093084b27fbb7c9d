"""The chat templates of this project, by real tokenizers, beside upstream's own where TRL ships them."""

import json
from copy import deepcopy

import pytest
from repository import ROOT
from upstream_templates import upstreams

TEMPLATES = sorted((ROOT / "chat_templates").glob("*.jinja"))


CONTROL = {
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "phi": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "mistral": [
        *("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "</s>", "<s>"),
    ],
    "zephyr": ["</s>"],
}


TURN_END = {
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi": "<|end|>",
    "mistral": "</s>",
    "zephyr": "</s>",
}


TOOL_FAMILIES = {"llama3", "qwen3", "mistral", "smollm3"}


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which colour?"},
    {"role": "assistant", "content": "Red."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.fixture(scope="module")
def tokenizer_of(tiny_tokenizer_dir):
    """family -> a tokenizer that has the family's control tokens as single ids and its eos."""
    from transformers import AddedToken, AutoTokenizer

    def make(family: str):
        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
        tokens = [AddedToken(t, special=True, normalized=False) for t in CONTROL.get(family, [])]
        tokenizer.add_tokens(tokens, special_tokens=True)
        if "</s>" in CONTROL.get(family, []):
            tokenizer.eos_token = "</s>"
        tokenizer.chat_template = (ROOT / f"chat_templates/{family}.jinja").read_text(encoding="utf-8")
        return tokenizer

    return make


def test_a_turn_end_that_is_no_token_is_none(tiny_tokenizer):
    from lifecycle_recipes.models.turn_end import turn_end, turn_end_id, turn_end_token

    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|zzz|>{% endfor %}"
    assert turn_end(tokenizer) == "<|zzz|>" and turn_end_token(tokenizer) is None
    assert turn_end_id(tokenizer) == tokenizer.eos_token_id
    # A template for one turn only has an end-of-turn token, too.
    one_turn = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}"
    tokenizer.chat_template = one_turn + tiny_tokenizer.chat_template
    assert turn_end_token(tokenizer) == turn_end_token(tiny_tokenizer) is not None


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
class TestEveryTemplate:
    def test_keeps_the_contract(self, file, tokenizer_of):
        from lifecycle_recipes.doctor.row_level.template import find_in_template

        assert find_in_template(tokenizer_of(file.stem), file.read_text(encoding="utf-8"), str(file)) == []

    def test_trains_each_reply_and_its_turn_end_and_nothing_else(self, file, tokenizer_of):
        tokenizer, end = tokenizer_of(file.stem), TURN_END.get(file.stem, "<|im_end|>")
        seen = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
        trained = [i for i, bit in zip(seen["input_ids"], seen["assistant_masks"], strict=True) if bit]
        text = tokenizer.decode(trained).replace("<think>\n\n</think>\n\n", "")
        space = " " if file.stem == "mistral" else ""
        assert text == f"{space}Red.{end}{space}Yes.{end}"

    def test_has_the_turns_of_its_family(self, file, tokenizer_of):
        from lifecycle_recipes.doctor.row_level.template import missing_turns

        tokenizer = tokenizer_of(file.stem)
        expected = [] if file.stem in TOOL_FAMILIES else ["tool call"]
        assert missing_turns(tokenizer, tokenizer.chat_template) == expected

    def test_a_call_may_hold_its_arguments_as_text(self, file, tokenizer_of):
        if file.stem not in TOOL_FAMILIES:
            pytest.skip("the family has no tool calls")
        tokenizer = tokenizer_of(file.stem)
        texts = []
        for arguments in ({"n": 1}, json.dumps({"n": 1})):
            call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
            messages = [CHAT[1], {"role": "assistant", "content": None, "tool_calls": [call]}]
            texts.append(tokenizer.apply_chat_template(messages, tokenize=False))
        assert texts[0] == texts[1]
        assert '"name": "f"' in texts[0]

    def test_refuses_a_role_it_does_not_know(self, file, tokenizer_of):
        from jinja2 import TemplateError

        messages = [{"role": "narrator", "content": "Once."}, *CHAT[1:3]]
        with pytest.raises(TemplateError):
            tokenizer_of(file.stem).apply_chat_template(messages, tokenize=False)

    def test_turn_end_is_what_the_sft_stage_makes_eos(self, file, tokenizer_of):
        from lifecycle_recipes.models.turn_end import turn_end

        tokenizer = tokenizer_of(file.stem)
        end = TURN_END.get(file.stem, "<|im_end|>")
        assert turn_end(tokenizer) == turn_end(tokenizer, tokenizer.chat_template) == end


@pytest.mark.parametrize(
    ("ours", "theirs", "messages"),
    [
        ("llama3", "llama3", CHAT),
        ("gemma", "gemma3", CHAT),
        ("qwen3", "qwen3", CHAT[:3]),  # in earlier turns Qwen takes the think block out
        ("qwen3", "qwen3_training", CHAT),
    ],
)
def test_renders_as_upstream(ours, theirs, messages, tokenizer_of):
    tokenizer = tokenizer_of(ours)
    for prompt in (False, True):
        part = messages[:-1] if prompt else messages
        options = {"tokenize": False, "add_generation_prompt": prompt}
        expected = tokenizer.apply_chat_template(part, chat_template=upstreams(theirs), **options)
        assert tokenizer.apply_chat_template(part, **options) == expected


def test_qwen3_tool_calls_render_as_upstream(tokenizer_of):
    from lifecycle_recipes.doctor.row_level.template_probes import CONVERSATIONS

    tokenizer, (messages, tools) = tokenizer_of("qwen3"), CONVERSATIONS["tool call"]
    expected = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, chat_template=upstreams("qwen3_training")
    )
    assert tokenizer.apply_chat_template(messages, tools=tools, tokenize=False) == expected


def test_phi_renders_as_upstream_but_for_the_end_of_the_text(tokenizer_of):
    tokenizer = tokenizer_of("phi")
    expected = tokenizer.apply_chat_template(CHAT, tokenize=False, chat_template=upstreams("phi3"))
    ours = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert ours + tokenizer.eos_token == expected


def test_mistral_and_zephyr_as_their_families_write(tokenizer_of):
    mistral, zephyr = tokenizer_of("mistral"), tokenizer_of("zephyr")
    mistral.bos_token = "<s>"
    assert mistral.apply_chat_template(CHAT, tokenize=False) == (
        "<s>[INST] Be brief.\n\nWhich colour?[/INST] Red.</s>[INST] Sure?[/INST] Yes.</s>"
    )
    assert zephyr.apply_chat_template(CHAT[:3], tokenize=False) == (
        "<|system|>\nBe brief.</s>\n<|user|>\nWhich colour?</s>\n<|assistant|>\nRed.</s>\n"
    )


def test_thinking_off_writes_the_empty_block_into_the_prompt(tokenizer_of):
    for family in ("qwen3", "smollm3"):
        tokenizer = tokenizer_of(family)
        options = {"tokenize": False, "enable_thinking": False}
        prompt = tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, **options)
        assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert tokenizer.apply_chat_template(CHAT[:3], **options).startswith(prompt)


def test_thoughts_may_stand_in_the_text_or_beside_it(tokenizer_of):
    tokenizer, question = tokenizer_of("qwen3"), CHAT[1]
    beside = {"role": "assistant", "content": "Red.", "reasoning_content": "It was red."}
    inside = {"role": "assistant", "content": "<think>\nIt was red.\n</think>\n\nRed."}
    texts = [tokenizer.apply_chat_template([question, m], tokenize=False) for m in (beside, inside)]
    assert texts[0] == texts[1]
    assert texts[0].endswith("<think>\nIt was red.\n</think>\n\nRed.<|im_end|>\n")
    smollm = tokenizer_of("smollm3")
    texts = [smollm.apply_chat_template([question, m], tokenize=False) for m in (beside, inside)]
    assert texts[0] == texts[1]


def test_every_family_of_the_docs_has_its_file(repo_root):
    text = (repo_root / "docs/templates.md").read_text(encoding="utf-8")
    assert all(f"`{file.name}`" in text for file in TEMPLATES)


def broken_template(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("code", "family", "old", "new"),
    [
        ("no-generation-markers", "chatml", "{%- generation %}", ""),
        ("eos-untrained", "chatml", "content + '<|im_end|>' }}\n        {%- endgeneration %}", ""),
        ("bad-template", "chatml", "message.content", "mesage.content"),
        ("bad-template", "llama3", "{{- content }}", ""),
        ("control-token-split", "chatml", "<|im_start|>", "<|start|>"),
        ("generation-prompt-differs", "chatml", "<|im_start|>assistant\\n", "<|im_start|>assistant\\n\\n"),
        ("double-bos", "llama3", "{{- bos_token }}", "{{- bos_token + bos_token }}"),
        ("no-turn-end", "phi", "<|end|>", ""),
    ],
)
def test_a_broken_template_is_named(code, family, old, new, tokenizer_of):
    from lifecycle_recipes.doctor.row_level.template import find_in_template

    tokenizer = tokenizer_of(family)
    text = tokenizer.chat_template
    if code == "eos-untrained":
        new = "content }}\n        {%- endgeneration %}{{- '<|im_end|>' }}"
    everywhere = code in ("no-turn-end", "control-token-split")
    template = text.replace(old, new) if everywhere else broken_template(text, old, new)
    if code == "no-generation-markers":
        template = template.replace("{%- endgeneration %}", "")
    found = find_in_template(tokenizer, template, "mine.jinja")
    assert [finding.code for finding in found] == [code], found
    assert found[0].where == "mine.jinja"
    assert found[0].severity == "error"
    assert "\n" not in found[0].message + found[0].fix


def test_a_template_without_the_tokenizers_bos_is_named(tokenizer_of):
    from tokenizers.processors import TemplateProcessing

    from lifecycle_recipes.doctor.row_level.template import find_in_bos

    tokenizer = tokenizer_of("chatml")
    assert find_in_bos(tokenizer, tokenizer.chat_template, "x") is None
    bos = tokenizer.bos_token
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    finding = find_in_bos(tokenizer, tokenizer.chat_template, "x")
    assert (finding.code, finding.severity) == ("no-bos", "warning")


def test_upstreams_training_version_is_found(tokenizer_of):
    from lifecycle_recipes.doctor.row_level.template import training_version

    assert training_version(upstreams("qwen3")) == upstreams("qwen3_training")
    assert training_version(tokenizer_of("chatml").chat_template) is None
