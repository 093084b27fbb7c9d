"""Faults of single rows, each with a code and a detail; rows with the same fault become one finding.

Upstream trains on all of these rows without a message. No torch, no datasets: a row is a plain dict.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from ..finding import Finding, Refusal
from .turn_weights import find_without_effect, is_trained, weight_fault

ROLES = ("system", "user", "assistant", "tool")
CONVERSATIONS = ("messages", "prompt", "chosen", "rejected", "completion")
REPLIES = ("chosen", "rejected", "completion")
SAME_PAIR = "chosen equals rejected"  # the reason in the ledger
FAULT = "__fault__"  # [code, detail] in place of the cells of a row that cannot be converted (formats.py)
SHOWN = 5  # row numbers in a message; the rest are counted

REPAIR = "correct or remove these rows"
# Rows that no stage can train on: refused, or left out and counted if the recipe allows the code.
UNTRAINABLE = {
    "no-messages": REPAIR,
    "not-messages": "write a list of {role, content}, or use another column in `data.sources[].columns`",
    "from-value-messages": "set `format: sharegpt` and `columns: {conversations: <the column>}` on the source",
    "wrong-format": "correct these rows, or set the `format:` that they have on the source (docs/data.md)",
    "unknown-role": f"the roles are {', '.join(ROLES)}; map the others on the source: `roles: {{<its name>: user}}`",
    "empty-reply": REPAIR,
    "empty-turn": REPAIR,
    "content-not-text": "content is a string or a list of text parts; remove rows with other parts",
    "empty-prompt": REPAIR,
    "empty-text": "remove them, or write an empty string (those are left out and counted)",
    "not-text": "use a column of strings",
    "prompt-only": "remove these rows, add the reply, or give one reply weight 1 (train: true): without a reply that "
    "is trained on, a row has no supervised token",
    "bad-label": "label is true for a good reply and false for a bad one",
    "bad-tools": "write the functions as a list of JSON schemas, or that list as a JSON string",
    "bad-turn-weight": "write weight 1 or 0, or train true or false: other weights are not supported",
}
# Rows that can be trained on, but with an effect that their author did not intend: code -> (severity, fix).
# A recipe that allows an error leaves these rows out, too; the rows of a warning are kept.
MISLEADING = {
    "same-pair": ("warning", "none needed: these rows express no preference; they are left out and counted"),
    "mixed-formats": ("error", "write prompt and replies as lists of messages, or all of them as strings"),
    "prompt-repeated": ("error", "remove the prompt from the replies"),
    "pair-prompts-differ": ("error", "pair only replies to the same prompt"),
    "assistant-first": ("error", "put the user's message first, or make the first message a system message"),
    "roles-out-of-order": ("error", "merge or reorder the messages: [system,] user, assistant, user, ..."),
    "ends-with-user": (
        "warning",
        "remove the last message: it has no reply and no supervised token",
    ),
    "turn-weight-unused": ("warning", "remove the key: `weight` and `train` affect assistant turns in sft"),
}


def row_fault(row: dict, columns: list[str]) -> tuple[str, str] | None:
    """(code, detail) of the first thing that makes a row untrainable; columns: those the stage requires.

    A prompt that the stage reads if there is one may be missing in all rows of a source, but not in some.
    """
    if row.get(FAULT):
        return tuple(row[FAULT])
    optional = ["prompt"] if "prompt" in row and "prompt" not in columns else []
    for column in [*columns, *optional]:
        if fault := cell_fault(column, row.get(column)):
            return fault
    return _tools_fault(row.get("tools")) if "tools" not in columns else None


def misleading_fault(row: dict) -> tuple[str, str] | None:
    """(code, detail) of the first fault of MISLEADING in a row without a `row_fault`."""
    return reply_fault(row) or order_fault(row) or unused_weight(row)


def why_left_out(row: dict, allow: Collection[str], columns: list[str]) -> str | None:
    """Why a row is left out and counted: a fault that the recipe allows, or a pair of equal replies."""
    if fault := row_fault(row, columns) or waived_fault(row, allow):
        return fault[0] if fault[0] in allow else None
    return SAME_PAIR if "rejected" in columns and row["chosen"] == row["rejected"] else None


def waived_fault(row: dict, allow: Collection[str]) -> tuple[str, str] | None:
    """The `misleading_fault` of a row without a `row_fault`, if it is an error that the recipe allows."""
    if not any(code in MISLEADING for code in allow):
        return None
    fault = misleading_fault(row)
    return fault if fault and fault[0] in allow and severity(fault[0]) == "error" else None


def cell_fault(column: str, value) -> tuple[str, str] | None:
    """(code, detail) of what is wrong with one cell, or None."""
    if column == "label":
        return None if isinstance(value, bool) else ("bad-label", f"label is {value!r}, not true or false")
    if column in CONVERSATIONS and not isinstance(value, str):
        return _conversation_fault(column, value)
    if column == "messages":
        return "not-messages", "messages is a string, not a list of messages"
    if value is None or (isinstance(value, str) and not value.strip()):
        return _empty_code(column), f"{column} is empty"
    if not isinstance(value, str):
        return "not-text", f"{column} is {type(value).__name__}, not a string"
    return None


def _empty_code(column: str) -> str:
    kinds = {"messages": "no-messages", "prompt": "empty-prompt"} | dict.fromkeys(REPLIES, "empty-reply")
    return kinds.get(column, "empty-text")


def _tools_fault(tools) -> tuple[str, str] | None:
    """Tools may be missing in a row; the templates read a list, which a row may store as JSON."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            return "bad-tools", f"tools is a string that is not JSON: {error}"
    if tools is None or (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        return None
    return "bad-tools", f"tools is {type(tools).__name__}, not a list of objects"


def _conversation_fault(column: str, messages) -> tuple[str, str] | None:
    if not messages:
        return _empty_code(column), f"no {column}"
    if not isinstance(messages, list):
        return "not-messages", f"{column} is {type(messages).__name__}, not a list of messages"
    for number, message in enumerate(messages, start=1):
        if fault := _message_fault(message):
            code, message = fault
            return code, f"{column}: message {number} {message}"
    replies = [m for m in messages if m["role"] == "assistant"]
    if column != "prompt" and not replies:
        return "prompt-only", f"{column}: no assistant message"
    if column == "messages":  # of the sft stage
        for number, message in enumerate(messages, start=1):
            if fault := weight_fault(message):
                return "bad-turn-weight", f"messages: message {number} {fault}"
        if not any(map(is_trained, replies)):
            return "prompt-only", "messages: every reply has weight 0 or train: false, so none is trained on"
    return None


def _message_fault(message) -> tuple[str, str] | None:
    if not isinstance(message, dict):
        return "not-messages", f"is {type(message).__name__}, not {{role, content}}"
    role, content = message.get("role"), message.get("content")
    if role is None and "from" in message and "value" in message:
        return "from-value-messages", "has `from` and `value`, not `role` and `content`"
    if role not in ROLES:
        return "unknown-role", f"has the role {role!r}, not one of {', '.join(ROLES)}"
    if content is not None and not isinstance(content, str):
        return "content-not-text", f"({role}) has a {type(content).__name__} as content, not a string"
    # A tool may return nothing, and a tool call needs no content.
    if (content is None or not content.strip()) and not message.get("tool_calls") and role != "tool":
        return ("empty-reply" if role == "assistant" else "empty-turn"), f"({role}) has no content"
    return None


def count_characters(row: dict) -> int:
    """Number of characters in the strings of a row and in the content of its messages."""
    total = 0
    for value in row.values():
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, list):
            total += sum(len(m.get("content") or "") for m in value if isinstance(m, dict))
    return total


def dialogues(row: dict) -> Iterator[tuple[str, list[dict]]]:
    """(column, messages) of every conversation in a row, prompts joined with replies; strings are skipped."""
    if isinstance(row.get("messages"), list):
        yield "messages", row["messages"]
    prompt = row.get("prompt")
    replies = [c for c in REPLIES if isinstance(row.get(c), list)]
    if isinstance(prompt, list) and not any(row.get(c) for c in REPLIES):
        yield "prompt", prompt
    for column in replies:
        yield column, [*(prompt if isinstance(prompt, list) else []), *row[column]]


def order_fault(row: dict) -> tuple[str, str] | None:
    """(code, detail) of the first message in a trainable row that breaks the order of user and assistant."""
    for column, messages in dialogues(row):
        roles = [m["role"] for m in messages]
        if fault := _order_fault(roles, asks=column == "prompt"):
            code, message = fault
            return code, f"{column}: {message}"
    return None


# Role -> roles that may precede it. A reply follows a user message or a tool result.
_BEFORE = {
    "system": (None,),
    "user": (None, "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def _order_fault(roles: list[str], asks: bool) -> tuple[str, str] | None:
    for number, (before, role) in enumerate(zip([None, *roles], roles, strict=False), start=1):
        if before in _BEFORE[role]:
            continue
        if role == "assistant" and before in (None, "system"):
            return "assistant-first", f"message {number} is from the assistant, before any user message"
        return "roles-out-of-order", f"message {number} ({role}) follows {before}"
    if asks and roles[-1] == "assistant":
        return (
            "roles-out-of-order",
            "the prompt ends with an assistant message, not a user message",
        )
    if not asks and roles[-1] != "assistant":
        return "ends-with-user", f"the last message is from {roles[-1]}"
    return None


def reply_fault(row: dict) -> tuple[str, str] | None:
    """(code, detail) of a fault between the prompt and the replies of a row without other faults, or None."""
    replies = {c: row[c] for c in REPLIES if c in row}
    if not replies:
        return None
    prompt = row.get("prompt")
    if "chosen" in row and row["chosen"] == row["rejected"]:
        return "same-pair", "chosen and rejected are equal"
    if fault := _format_fault(prompt, replies):
        return "mixed-formats", fault
    lists = {c: r for c, r in replies.items() if isinstance(r, list)}
    if isinstance(prompt, list) and (again := [c for c in lists if lists[c][: len(prompt)] == prompt]):
        return "prompt-repeated", f"{again[0]} begins with the prompt: the sequence would contain it twice"
    if not isinstance(prompt, list) and len(lists) == 2 and _asked(row["chosen"]) != _asked(row["rejected"]):
        return "pair-prompts-differ", "chosen and rejected answer different prompts"
    return None


def _format_fault(prompt, replies: dict) -> str | None:
    kinds = {c: "string" if isinstance(r, str) else "list of messages" for c, r in replies.items()}
    if len(set(kinds.values())) > 1:
        return " and ".join(f"{c} is a {kind}" for c, kind in kinds.items())
    reply, kind = next(iter(kinds.items()))
    if prompt is None or isinstance(prompt, str) == (kind == "string"):
        return None
    # For pairs, upstream uses the messages with which both replies begin as the prompt, if there are any (TRL
    # data_utils.py, maybe_extract_prompt). It does not for single replies.
    if len(replies) == 2 and kind != "string" and replies[reply][0].get("role") != "assistant":
        return None
    return f"prompt is a {'string' if isinstance(prompt, str) else 'list of messages'} and {reply} a {kind}"


def _asked(messages: list[dict]) -> list[tuple]:
    """The prompt of a pair."""
    return [(m["role"], m.get("content")) for m in messages if m["role"] in ("system", "user")]


def unused_weight(row: dict) -> tuple[str, str] | None:
    """turn-weight-unused, with the first message of a row whose weight has no effect."""
    for column in CONVERSATIONS:
        if isinstance(row.get(column), list) and (message := find_without_effect(column, row[column])):
            return "turn-weight-unused", f"{column}: {message}"
    return None


@dataclass
class Places:
    """Where one fault was found: the first place and detail, and the row (or line) numbers."""

    where: str
    message: str
    numbers: list[int | str] = field(default_factory=list)

    def sentence(self, unit: str = "rows", of: int | None = None) -> str:
        """The first detail; with more than one row, also their numbers, and how many there are."""
        if len(self.numbers) == 1:
            return self.message
        return (
            f"{self.message}; {len(self.numbers)}{f' of {of}' if of else ''} {unit}: {listed(self.numbers)}"
        )


def listed(numbers: list[int | str]) -> str:
    """`2, 9, 12, 15, 20 and 3 more`."""
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return ", ".join(map(str, numbers[:SHOWN])) + more


def one_label(label: bool, where: str = "") -> Finding:
    """The finding on KTO rows that all have this label."""
    message = f"every label is {str(label).lower()}"
    return Finding.error("one-label", message, "KTO needs both good and bad replies", where)


def require_both_labels(labels: Collection[bool]) -> None:
    """Raise Refusal one-label if all labels of a KTO run are true, or all are false."""
    if len(kinds := set(labels)) == 1:
        raise Refusal(one_label(kinds.pop()))


def unknown_roles(row: dict) -> set[str]:
    """The roles of a row's messages that no template knows, as they are printed."""
    messages = [
        m for c in CONVERSATIONS if isinstance(row.get(c), list) for m in row[c] if isinstance(m, dict)
    ]
    return {repr(m.get("role")) for m in messages if m.get("role") not in ROLES}


class Faults:
    """Faults of one source's rows, gathered by code.

    unit: what the numbers count, `rows` or `lines`. required: the columns of the stage.
    """

    def __init__(self, unit: str = "rows", required: Collection[str] = ()):
        self.unit, self.required = unit, required
        self.places: dict[str, Places] = {}
        self.roles: Counter[str] = Counter()

    def add(self, code: str, message: str, where: str, number: int | str, row: dict | None = None) -> None:
        """row: the row itself, of which all unknown roles are named."""
        self.places.setdefault(code, Places(where, message)).numbers.append(number)
        if code == "unknown-role":
            self.roles.update(unknown_roles(row or {}))

    def sentence(self, code: str) -> str:
        """What is wrong and where; for unknown-role also how many rows have each role, if there are several."""
        sentence = self.places[code].sentence(self.unit)
        if code != "unknown-role" or len(self.roles) < 2:
            return sentence
        counted = ", ".join(f"{role} ({rows})" for role, rows in self.roles.most_common())
        return f"{sentence}; the unknown roles and their {self.unit}: {counted}"

    def findings(self, fixes: dict[str, str] | None = None) -> list[Finding]:
        """One finding per code, at its first place. fixes: for codes that this module does not know."""
        return [
            Finding(
                code,
                severity(code),
                self.sentence(code),
                (fixes or {}).get(code) or fix(code, self.required),
                p.where,
            )
            for code, p in self.places.items()
        ]


def severity(code: str) -> str:
    return MISLEADING[code][0] if code in MISLEADING else "error"


def fix(code: str, required: Collection[str] = ()) -> str:
    """The fix for a row fault. required: the columns of the stage."""
    own = MISLEADING[code][1] if code in MISLEADING else UNTRAINABLE[code]
    if code in ("empty-prompt", "prompt-repeated") and "prompt" not in required:
        own += ', or leave the prompt unread with `columns: {prompt: ""}`'
    return own if severity(code) == "warning" else f"{own}; `allow: {{{code}: reason}}` leaves such rows out"
