"""What rows hold and the chat template leaves out, found by rendering each row with and without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...data.provenance import Place, places
from ...data.row_faults import dialogues
from ...finding import Finding
from ...models.turn_end import render
from .template import missing_turns
from .template_probes import WRITES_CALLS
from .token_lengths import Sample, tools_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Keys of a message whose content is meant for the model: training without it is another training.
SPOKEN = ("tool_calls", "reasoning_content", "thinking", "reasoning")
# What the template WRITES_CALLS writes.
IN_QWEN3 = ("tool_calls", "the tools", "reasoning_content", "system messages", "tool messages")
# Keys that no template needs to write: the content itself, the weight of a turn, and the id that links a
# result to its call.
SILENT = ("role", "content", "weight", "train", "tool_call_id")


def find_unrendered(
    tokenizer: PreTrainedTokenizerBase, template: str, samples: list[Sample], where: str
) -> list[Finding]:
    """not-rendered, once for each thing: an error, but a warning for keys that no model is known to read.

    where: the place of the template, named in the fix.
    """
    lost: dict[str, list[Place]] = {}
    drops_system = "system message" in missing_turns(tokenizer, template)
    total = sum(len(sample.places) for sample in samples)
    for sample in samples:
        for row_set, i in sample.places:
            for name in lost_in(tokenizer, template, row_set.rows[i], drops_system):
                lost.setdefault(name, []).append(row_set.place(i))
    return [_finding(name, found, total, where) for name, found in lost.items()]


def _finding(name: str, found: list[Place], total: int, where: str) -> Finding:
    message = f"the chat template leaves out {name} in {len(found)} of {total} rows read ({places(found)})"
    if name.startswith("the key"):
        fix = "remove the key from the rows, or move its text into content"
        return Finding.warning("not-rendered", message, fix, str(found[0]))
    such = f", such as {WRITES_CALLS}" if name in IN_QWEN3 else ""
    fix = f"use a template that writes it{such} (now {where}), or remove it from the rows"
    return Finding.error("not-rendered", message, fix, str(found[0]))


def lost_in(tokenizer: PreTrainedTokenizerBase, template: str, row: dict, drops_system: bool) -> list[str]:
    """What this row holds and its rendering does not depend on; a row that cannot be rendered loses nothing.

    drops_system: whether to try it without its system message; most rows have one, and most templates write it.
    """
    names: dict[str, None] = {}
    for _, messages in dialogues(row):
        tools = tools_of(row)
        candidates = dict(_without(messages, tools, drops_system))
        whole = _text(tokenizer, template, messages, tools) if candidates else None
        for name, part in candidates.items():
            if whole is not None and _text(tokenizer, template, *part) == whole:
                names[name] = None
    return list(names)


def _text(tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict], tools: Any) -> str | None:
    """The rendering, or None if the template rejects it (which template-rejects-row reports)."""
    try:
        return render(tokenizer, messages, template, tools=tools)
    except Exception:  # a template is a program: it may raise anything
        return None


def _without(messages: list[dict], tools: Any, system: bool) -> Iterator[tuple[str, tuple[list[dict], Any]]]:
    """(name of something in a conversation, (messages, tools) without it)."""
    if tools:
        yield "the tools", (messages, None)
    keys = dict.fromkeys(key for message in messages for key, value in message.items() if value)
    for key in keys:
        if key in SILENT:
            continue
        if key == "name" and not any(m.get("name") for m in messages if m["role"] != "tool"):
            continue  # of a tool result, whose call has the name
        bare = [{k: v for k, v in message.items() if k != key} for message in messages]
        yield key if key in SPOKEN else f"the key {key!r}", (bare, tools)
    for role in ("system", "tool") if system else ("tool",):
        if any(m["role"] == role and m.get("content") for m in messages):
            yield f"{role} messages", ([m for m in messages if m["role"] != role], tools)
