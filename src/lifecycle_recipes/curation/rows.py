"""The texts of a row: which strings of it a step looks at, and the row with edits of them. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .documents import Edit, Part

BETWEEN = "\n\n"  # what separates the strings of a row in the text that a step sees
_PROMPT, _REPLIES = "prompt", ("chosen", "rejected", "completion")
COLUMNS = ("text", _PROMPT, "messages", *_REPLIES)  # those with the texts of a row, by `curate.kind`


def text_of(row: dict[str, Any], part: Part) -> str:
    """The strings of a part of a row, as one text."""
    return BETWEEN.join(holder[key] for holder, key in strings(row, part))


def strings(row: dict[str, Any], part: Part) -> Iterator[tuple[dict, str]]:
    """(the mapping that has it, its key) of every string of a part of a row, in order.

    A reply is what the assistant writes in messages, and chosen, rejected or completion; a prompt is the rest.
    """
    if isinstance(row.get("text"), str):
        yield row, "text"
        return
    for column in (_PROMPT, "messages", *_REPLIES):
        value = row.get(column)
        if isinstance(value, str) and part in ("row", "reply" if column in _REPLIES else "prompt"):
            yield row, column
        for message in value if isinstance(value, list) else ():
            if not isinstance(message.get("content"), str):
                continue
            is_reply = message.get("role") == "assistant" and column != _PROMPT
            if part == "row" or (part == "reply") == is_reply:
                yield message, "content"


def apply(edits: Sequence[tuple[Part, Sequence[Edit]]], row: dict[str, Any]) -> None:
    """Edit the strings of a row in place. edits: per part, in characters of `text_of` that part of the unedited row.

    Edits that overlap, as those of two steps may, become one with the text of the first.
    """
    changes: dict[tuple[int, str], list[tuple[int, int, str]]] = {}
    holders = {}
    for part, some in edits:
        start = 0
        for holder, key in strings(row, part):
            end = start + len(holder[key])
            for edit in some:
                low, high = max(edit.start, start), min(edit.end, end)
                if low < high:
                    name = (id(holder), key)
                    holders[name] = holder
                    changes.setdefault(name, []).append((low - start, high - start, edit.text))
            start = end + len(BETWEEN)
    for (_, key), spans in changes.items():
        holder = holders[(_, key)]
        holder[key] = _replace(holder[key], spans)


def _replace(text: str, spans: list[tuple[int, int, str]]) -> str:
    pieces, position = [], 0
    merged: list[list] = []
    # Of two that start together, the longer one counts: a mask in a removed line is removed with it.
    for start, end, new in sorted(spans, key=lambda span: (span[0], -span[1])):
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end, new])
    for start, end, new in merged:
        pieces += [text[position:start], new]
        position = end
    return "".join([*pieces, text[position:]])
