"""Test conversations for chat templates, and functions that render them. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...models.turn_end import (
    AGAIN,
    ANSWER,
    ASKED,
    CONTROL,
    ORDER,
    QUESTION,
    SAID,
    SECOND,
    render,
    special_tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = {"role": "system", "content": ORDER}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Look a word up.",
            "parameters": {
                "type": "object",
                "properties": {"word": {"type": "string", "description": "the word"}},
                "required": ["word"],
            },
        },
    }
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "id": "abc123def", "function": {"name": "lookup", "arguments": {"word": ASKED}}}
    ],
}
RESULT = {"role": "tool", "name": "lookup", "tool_call_id": "abc123def", "content": AGAIN}

# Name -> (messages, tools). Each ends with an assistant message.
CONVERSATIONS: dict[str, tuple[list[dict], list | None]] = {
    "one turn": ([QUESTION, ANSWER], None),
    "system message": ([SYSTEM, QUESTION, ANSWER], None),
    "two turns": ([QUESTION, ANSWER, SECOND, ANSWER], None),
    "tool call": ([QUESTION, CALL, RESULT, ANSWER], TOOLS),
}
# A template that writes tools, their calls and their results.
WRITES_CALLS = "chat_templates/qwen3.jinja (train.chat_template_path of sft and reward)"
OPTIONAL = ("system message", "tool call")  # not every model family has these turns

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Zephyr and Mistral 7B before v0.3 were trained with these as several tokens, so it is correct for them.
SPELT_OUT = frozenset(["<|system|>", "<|user|>", "<|assistant|>", "[INST]", "[/INST]"])


@dataclass(frozen=True)
class Rendered:
    """ids, and for each token whether it is inside the template's generation markers."""

    ids: list[int]
    trained: list[bool]


def render_all(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[dict]],
    template: str,
    mask: bool = True,
    **options: Any,
):
    """A `Rendered` for each conversation, in one batch. mask: whether to compute the supervised tokens."""
    batch = tokenizer.apply_chat_template(
        conversations,
        chat_template=template,
        return_dict=True,
        return_attention_mask=False,
        return_assistant_tokens_mask=mask and bool(GENERATION.search(template)),
        **options,
    )
    masks = batch.get("assistant_masks") or [[0] * len(ids) for ids in batch["input_ids"]]
    return [
        Rendered(ids, [bool(bit) for bit in bits])
        for ids, bits in zip(batch["input_ids"], masks, strict=True)
    ]


def works_with(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> dict[str, tuple[list[dict], list | None]]:
    """The conversations of CONVERSATIONS that a template renders completely."""
    taken = {}
    for name, (messages, tools) in CONVERSATIONS.items():
        try:
            text = render(tokenizer, messages, template, tools=tools)
        except Exception:  # a template is a program: it may raise anything
            continue
        wanted = {"system message": [ORDER, SAID], "tool call": ["lookup", '"word"', AGAIN, SAID]}
        if all(word in text for word in wanted.get(name, [ASKED, SAID])):
            taken[name] = (messages, tools)
    return taken


def control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """The control tokens that a template writes, in the order of their first appearance."""
    words = re.compile("|".join((ASKED, SAID, AGAIN, ORDER)))
    found: dict[str, None] = {}
    special = special_tokens(tokenizer)
    for messages, tools in works_with(tokenizer, template).values():
        for prompt in (False, True):
            part = messages[:-1] if prompt else messages
            text = render(tokenizer, part, template, tools=tools, add_generation_prompt=prompt)
            for piece in words.split(text):
                hits = [*CONTROL.finditer(piece), *special.finditer(piece)]
                found |= dict.fromkeys(hit.group() for hit in sorted(hits, key=lambda hit: hit.start()))
    return list(found)
