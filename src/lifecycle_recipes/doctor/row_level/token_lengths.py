"""Level 2, tokens of the rows: lengths, supervised tokens, and control tokens in the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ...data.provenance import Place, places
from ...data.row_sets import RowSet
from ...data.turn_weights import without_untrained
from ...finding import Finding, Refusal, refuse
from ...models.turn_end import special_tokens
from ...quiet import tokenizers_in_parallel
from .template_probes import WRITES_CALLS, render_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Above either limit, evenly spaced rows are sampled: their shares are as good, and the check takes seconds.
MOST_ROWS, MOST_CHARACTERS = 10_000, 8_000_000
BATCH = 256
SHOWN = 5


@dataclass(frozen=True)
class Length:
    """Token counts of one row as its stage renders it.

    prompt: tokens before the reply, with the generation prompt. whole: with the longest reply.
    first, last: positions of the first and last supervised token, from 0; None if there is none.
    split: the tokens of the prompt are not those with which prompt and reply begin.
    """

    place: Place
    prompt: int
    whole: int
    first: int | None = None
    last: int | None = None
    split: bool = False


@dataclass
class Sample:
    """The sampled rows of one use, of `total` rows."""

    places: list[tuple[RowSet, int]]
    total: int

    @property
    def of(self) -> str:
        """`8000 rows`, or how many of them were sampled."""
        looked = len(self.places)
        return f"{self.total} rows" if looked == self.total else f"{looked} sampled rows of {self.total}"


def take(row_sets: list[RowSet], use: str) -> Sample:
    """The rows of `use`: all of them, or an evenly spaced sample (MOST_ROWS, MOST_CHARACTERS).

    row_sets: without rows that cannot be trained on (rows.py, `sound_sets`).
    """
    places = [(s, i) for s in row_sets if s.use == use for i in range(len(s.rows))]
    total = len(places)
    if not places:
        return Sample([], 0)
    probe = places[:: max(1, total // 200)]
    characters = sum(len(str(s.rows[i])) for s, i in probe) / len(probe)
    most = max(1, min(MOST_ROWS, int(MOST_CHARACTERS / max(characters, 1))))
    step = -(-total // most)
    return Sample(places[::step], total)


@tokenizers_in_parallel()
def measure(
    tokenizer: PreTrainedTokenizerBase, template: str | None, sample: Sample, stage: str
) -> list[Length]:
    """A `Length` for each row of the sample. Raises Refusal template-rejects-row at the first such row."""
    lengths = []
    for start in range(0, len(sample.places), BATCH):
        places = sample.places[start : start + BATCH]
        for text, group in groupby(places, key=lambda place: is_text(place[0].rows[place[1]])):
            measured = _measure_texts if text else _measure_chats
            lengths += measured(tokenizer, template, list(group), stage)
    return lengths


def is_text(row: dict) -> bool:
    """Whether a row is plain text, not a conversation."""
    value = next((row[c] for c in ("messages", "chosen", "completion", "prompt") if c in row), None)
    return isinstance(value, str)


def _replies(row: dict) -> list:
    """The replies of a row beside its prompt; empty if it has none."""
    return [row[column] for column in ("chosen", "rejected", "completion") if column in row]


def _measure_texts(tokenizer: PreTrainedTokenizerBase, template, places, stage) -> Iterator[Length]:
    rows = [s.rows[i] for s, i in places]
    prompts = tokenizer([row.get("prompt") or "" for row in rows])["input_ids"]
    for (row_set, i), row, prompt in zip(places, rows, prompts, strict=True):
        texts = [(row.get("prompt") or "") + reply for reply in _replies(row)]
        wholes = tokenizer(texts)["input_ids"] if texts else [prompt]
        split = bool(row.get("prompt")) and _is_split(stage, prompt, wholes)
        yield Length(row_set.place(i), len(prompt), max(map(len, wholes)), split=split)


def _is_split(stage: str, prompt: list[int], wholes: list[list[int]]) -> bool:
    """Whether prompt and reply are tokenised together, so that no token ends where the prompt does.

    DPO and KTO separate them by the number of tokens in the prompt (trl/trainer/dpo_trainer.py); a reward is
    read at the end of the whole.
    """
    return stage in ("dpo", "kto") and any(whole[: len(prompt)] != prompt for whole in wholes)


def _measure_chats(tokenizer: PreTrainedTokenizerBase, template, places, stage) -> Iterator[Length]:
    rows = [s.rows[i] for s, i in places]
    if stage == "sft":
        rendered = _render(tokenizer, template, places, [row["messages"] for row in rows], mask=True)
        for (row_set, i), row, seen in zip(places, rows, rendered, strict=True):
            kept = without_untrained(tokenizer, template, row, seen.ids, seen.trained)
            trained = [k for k, is_trained in enumerate(kept) if is_trained]
            ends = (trained[0], trained[-1]) if trained else (None, None)
            yield Length(row_set.place(i), 0, len(seen.ids), *ends)
        return
    # Where only the replies are messages, upstream uses their common beginning as the prompt.
    given = [prompt if isinstance(prompt := row.get("prompt"), list) else [] for row in rows]
    asked = [p or _shared(row) for p, row in zip(given, rows, strict=True)]
    prompts = _render(tokenizer, template, places, asked, add_generation_prompt=True)
    sides = list(
        zip(
            *([p + reply for reply in _replies(row)] for p, row in zip(given, rows, strict=True)), strict=True
        )
    )
    wholes = [_render(tokenizer, template, places, list(side)) for side in sides]
    for k, ((row_set, i), prompt) in enumerate(zip(places, prompts, strict=True)):
        mine = [side[k].ids for side in wholes] or [prompt.ids]
        split = _is_split(stage, prompt.ids, mine)
        yield Length(row_set.place(i), len(prompt.ids), max(map(len, mine)), split=split)


def _shared(row: dict) -> list:
    """The messages with which both chosen and rejected begin, without their last ones."""
    chosen, rejected = row["chosen"], row["rejected"]
    n = next((k for k, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), len(chosen) - 1)
    return chosen[: max(n, 1)]


def _render(
    tokenizer: PreTrainedTokenizerBase, template, places, conversations, mask: bool = False, **options
):
    """`render_all`, one by one if rows have tools; the Refusal names the row that the template rejects."""
    tools = [tools_of(row_set.rows[i]) for row_set, i in places]
    options["mask"] = mask
    try:
        if not any(tools):
            return render_all(tokenizer, conversations, template, **options)
        return [
            render_all(tokenizer, [conversation], template, tools=own, **options)[0]
            for conversation, own in zip(conversations, tools, strict=True)
        ]
    except Exception as error:
        raise _rejected(tokenizer, template, places, conversations, tools, options) from error


def tools_of(row: dict) -> list | None:
    """The `tools` of a row, which may be JSON in a string; None without any."""
    tools = row.get("tools")
    return (json.loads(tools) if isinstance(tools, str) else tools) or None


def _rejected(tokenizer: PreTrainedTokenizerBase, template, places, conversations, tools, options) -> Refusal:
    for (row_set, i), conversation, own in zip(places, conversations, tools, strict=True):
        try:
            render_all(tokenizer, [conversation], template, tools=own, **options)
        except Exception as error:
            problem = " ".join(str(error).split())
            message = f"the chat template rejects this row: {problem}"
            fix = "correct the row, or use another template"
            if "tool_calls" not in template and (number := _bare_call(conversation)):
                why = f"message {number} has tool_calls and no content, and the template writes only content"
                message = f"the chat template rejects this row: {why} ({problem})"
                fix = f"use a template that writes tool calls, such as {WRITES_CALLS}"
            return refuse("template-rejects-row", message, fix, row_set.where(i))
    raise RuntimeError("a batch of rows failed to render, but none of them alone")


def _bare_call(conversation: list[dict]) -> int | None:
    """The number of the first message that calls a tool and has no content."""
    calls = (n for n, m in enumerate(conversation, 1) if m.get("tool_calls") and m.get("content") is None)
    return next(calls, None)


def find_smuggled(tokenizer: PreTrainedTokenizerBase, samples: list[Sample]) -> list[Finding]:
    """control-token-in-text: rows whose text contains the characters of a control token."""
    pattern = special_tokens(tokenizer)
    hits = [
        (row_set, i, hit.group())
        for sample in samples
        for row_set, i in sample.places
        if (hit := pattern.search("\n".join(_texts(row_set.rows[i]))))
    ]
    if not hits:
        return []
    row_set, i, token = hits[0]
    tokens = ", ".join(dict.fromkeys(hit[2] for hit in hits))
    rows = listed([s.place(i) for s, i, _ in hits])
    message = f"control-token injection: row text contains control tokens ({tokens}): {rows}"
    fix = "remove it from the text, or put a space inside it"
    return [Finding.error("control-token-in-text", message, fix, row_set.where(i))]


def _texts(value) -> Iterator[str]:
    """Every string in a row except the names of roles and types."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ("role", "type"):
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def find_second_bos(tokenizer: PreTrainedTokenizerBase, samples: list[Sample]) -> list[Finding]:
    """double-bos: text rows that start with the bos token, which the tokenizer adds as well."""
    bos = tokenizer.bos_token
    if bos is None or tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:
        return []
    hits = [
        row_set.place(i)
        for sample in samples
        for row_set, i in sample.places
        if any(isinstance(v, str) and v.startswith(bos) for v in row_set.rows[i].values())
    ]
    if not hits:
        return []
    message = f"the text starts with {bos}, and the tokenizer adds a second one: {listed(hits)}"
    return [Finding.error("double-bos", message, f"remove {bos} from the rows", str(hits[0]))]


def listed(found: list[Place]) -> str:
    """`3 rows (file, lines 4, 9, 11)`; the first five of each file are listed."""
    return f"{len(found)} row{'s' if len(found) > 1 else ''} ({places(found, SHOWN)})"
