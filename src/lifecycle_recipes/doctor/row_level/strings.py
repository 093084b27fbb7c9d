"""Rows of strings for a model with a chat template: they are trained on as they stand, without the template."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...data.row_faults import REPLIES
from ...finding import Finding
from .token_lengths import Length, Sample, listed

# The beginning of a dialogue in the formats of hh-rlhf, of old chat prompts, ChatML, Llama 2 and Llama 3.
DIALOGUE = re.compile(r"\s*(Human:|User:|Assistant:|<\|im_start\|>|<\|start_header_id\|>|(<s>\s*)?\[INST\])")


def find_strings(train: Sample, held_out: Sample, template: str | None) -> list[Finding]:
    """plain-text-dialogue (error) or strings-for-chat (warning); nothing for a model without a template."""
    places = [*train.places, *held_out.places]
    plain = [(s, i) for s, i in places if any(True for _ in _strings(s.rows[i]))] if template else []
    if not plain:
        return []
    dialogues = [(s, i) for s, i in plain if any(map(DIALOGUE.match, _strings(s.rows[i])))]
    if dialogues:
        row_set, i = dialogues[0]
        begins = next(filter(None, map(DIALOGUE.match, _strings(row_set.rows[i])))).group(1)
        rows = listed([s.place(i) for s, i in dialogues])
        message = (
            f"a string begins with {begins!r}: a dialogue as text, which the chat template does not write"
        )
        fix = "write prompt and replies as lists of {role, content}"
        # The format of hh-rlhf has the whole dialogue in each reply.
        if begins in ("Human:", "Assistant:") and not row_set.rows[i].get("prompt"):
            fix += "; `format: hh` on the source reads these strings as messages"
        return [Finding.error("plain-text-dialogue", f"{message}: {rows}", fix, row_set.where(i))]
    row_set, i = plain[0]
    rows = listed([s.place(i) for s, i in plain])
    message = f"rows of strings are not rendered by the model's chat template: {rows}"
    fix = "write prompt and replies as lists of {role, content}, as the model reads them when it is served"
    if all("prompt" in s.rows[i] for s, i in plain):
        fix += "; `format: prompt_completion` on the source reads these strings as messages"
    return [Finding.warning("strings-for-chat", message, fix, row_set.where(i))]


def _strings(row: dict) -> Iterator[str]:
    for column in ("prompt", *REPLIES):
        if isinstance(row.get(column), str):
            yield row[column]


def find_split_prompts(lengths: list[Length], sample: Sample) -> list[Finding]:
    """prompt-split: the tokenizer joins the end of a prompt and the start of its reply to one token.

    Upstream cuts after as many tokens as the prompt has alone: the reply loses its first characters.
    """
    split = [row.place for row in lengths if row.split]
    if not split:
        return []
    message = (
        f"in {len(split)} of {sample.of}, prompt and reply share a token, and the reply starts inside it"
    )
    fix = (
        "end the prompt, or start the reply, where the tokenizer does (a space belongs to the word after it)"
    )
    return [Finding.warning("prompt-split", message, fix, str(split[0]))]
