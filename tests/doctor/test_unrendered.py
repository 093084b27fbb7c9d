"""What a row holds and its chat template leaves out is found; what the template writes is not."""

import json

import pytest
from repository import ROOT
from sound_rows import assistant, user
from token_recipes import chat, find

TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}},
}
CALL = {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]}
ASKED = user("Add 2 and 3.")


def row(*messages, **columns) -> dict:
    return {"messages": list(messages), **columns}


# What -> (a row that holds it, a part of the message).
HELD = {
    "a call alone": (row(ASKED, assistant("") | CALL), "leaves out tool_calls"),
    "a call beside text": (row(ASKED, assistant("I add.") | CALL), "leaves out tool_calls"),
    "tools": (row(ASKED, assistant("5"), tools=[TOOL]), "leaves out the tools"),
    "tools as JSON": (row(ASKED, assistant("5"), tools=json.dumps([TOOL])), "leaves out the tools"),
    "thoughts": (row(ASKED, assistant("5") | {"reasoning_content": "2 + 3"}), "leaves out reasoning_content"),
}


def unrendered(stage, path, rows):
    return [finding for finding in find(stage, path, rows) if finding.code == "not-rendered"]


@pytest.mark.parametrize(("held", "message"), HELD.values(), ids=HELD)
def test_it_is_an_error_with_the_number_of_rows(chat_model, held, message):
    (finding,) = unrendered("sft", chat_model, [chat("Red."), held, chat("Blue."), held])
    assert finding.severity == "error" and finding.where == "rows.jsonl:2"
    assert "chat_templates/qwen3.jinja" in finding.fix
    assert message in finding.message and "in 2 of 4 rows read (rows.jsonl, lines 2, 4)" in finding.message


@pytest.mark.parametrize(("held", "message"), HELD.values(), ids=HELD)
def test_a_template_that_writes_it_gives_no_finding(chat_model, held, message):
    (chat_model / "chat_template.jinja").write_text((ROOT / "chat_templates/qwen3.jinja").read_text())
    assert unrendered("sft", chat_model, [held]) == []


@pytest.mark.parametrize("content", [{"content": None}, {}], ids=["null", "missing"])
def test_a_call_without_content_is_named_with_a_template_that_writes_it(chat_model, content):
    held = row(
        ASKED, {"role": "assistant"} | content | CALL, {"role": "tool", "content": "5"}, assistant("5")
    )
    file = chat_model / "chat_template.jinja"
    file.write_text(file.read_text().replace("'assistant']", "'assistant', 'tool']"))
    (finding,) = find("sft", chat_model, [chat("Red."), held])
    assert finding.code == "template-rejects-row" and finding.where == "rows.jsonl:2"
    assert "message 2 has tool_calls and no content" in finding.message
    assert "chat_templates/qwen3.jinja" in finding.fix
    file.write_text((ROOT / "chat_templates/qwen3.jinja").read_text())
    assert find("sft", chat_model, [held]) == []


PAIR = {"prompt": [ASKED], "chosen": [assistant("5")], "rejected": [assistant("6")]}


@pytest.mark.parametrize(
    ("stage", "held"),
    [
        ("dpo", PAIR | {"chosen": [assistant("5") | {"thinking": "2 + 3"}]}),
        ("reward", PAIR | {"rejected": [assistant("6") | CALL]}),
        ("kto", {"prompt": [ASKED], "completion": [assistant("5")], "label": True, "tools": [TOOL]}),
        ("ppo", {"prompt": [ASKED, assistant("") | CALL, user("And 4?")]}),
    ],
)
def test_every_stage_with_conversations_looks(chat_model, stage, held):
    assert [f.severity for f in unrendered(stage, chat_model, [held])] == ["error"]


def test_empty_keys_hold_nothing_and_other_keys_are_a_warning(chat_model):
    empty = {"tool_calls": [], "reasoning_content": None, "thinking": "", "weight": 1}
    assert unrendered("sft", chat_model, [row(ASKED, assistant("5") | empty, tools=[])]) == []
    (finding,) = unrendered("sft", chat_model, [row(ASKED | {"name": "ann"}, assistant("5"))])
    assert finding.severity == "warning" and "the key 'name'" in finding.message


@pytest.mark.parametrize("role", ["system", "tool"])
def test_messages_that_the_template_skips(chat_model, role):
    file = chat_model / "chat_template.jinja"
    guard = f"for message in messages if message.role != '{role}'"
    file.write_text(file.read_text().replace("for message in messages", guard))
    middle = [assistant("I look."), {"role": "tool", "content": "blue"}] if role == "tool" else []
    first = [{"role": "system", "content": "Be short."}] if role == "system" else []
    (finding,) = unrendered("sft", chat_model, [row(*first, ASKED, *middle, assistant("5"))])
    assert finding.severity == "error" and f"leaves out {role} messages" in finding.message
