"""Rows in the formats of public data sets, converted to the columns of a stage. No torch, no datasets.

Nothing is guessed: `format:` of a source names its format, and a row of another shape is a fault. The run
(sources.py) and the checks before it (row_sets.py) convert with `converter`.
"""

import json
import re
from collections.abc import Callable
from itertools import chain
from typing import Any

from ..finding import refuse
from .config import Source
from .row_faults import FAULT, ROLES
from .row_files import half_pair, plain_endings

# What a stage makes of a row, by a column that it requires; a reply also has a prompt, which comes last.
_KINDS = {"messages": "chat", "chosen": "pair", "completion": "reply", "prompt": "prompt"}
_SHAPES = {"pair": ["chosen", "rejected"], "reply": ["label"], "chat": [], "prompt": []}
# Format -> kind -> (required, optional) columns of a source, besides chosen and rejected, or the label.
_COLUMNS = {
    "sharegpt": {
        "chat": (["conversations"], ["system", "tools"]),
        "pair": ([], ["conversations", "system", "tools"]),
        "reply": (["conversations"], ["system", "tools"]),
        "prompt": (["conversations"], ["system"]),
    },
    "alpaca": {
        "chat": (["instruction", "output"], ["input", "system"]),
        "pair": (["instruction"], ["input", "system"]),
        "reply": (["instruction", "output"], ["input", "system"]),
        "prompt": (["instruction"], ["input", "system"]),
    },
    "prompt_completion": {
        "chat": (["prompt", "completion"], ["tools"]),
        "pair": (["prompt"], ["tools"]),
        "reply": (["prompt", "completion"], ["tools"]),
        "prompt": (["prompt"], []),
    },
    "question_answer": {
        "chat": (["question", "answer"], ["system"]),
        "pair": (["question"], ["system"]),
        "reply": (["question", "answer"], ["system"]),
        "prompt": (["question"], ["system"]),
    },
    "hh": {"chat": (["text"], []), "pair": ([], []), "reply": (["text"], []), "prompt": (["text"], [])},
}
# Columns that may hold a list of messages.
_CONVERSATIONS = {
    "chat": ("messages",),
    "pair": ("prompt", "chosen", "rejected"),
    "reply": ("prompt", "completion"),
    "prompt": ("prompt",),
}
# Role names of ShareGPT data sets; others need `roles:`.
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class _WrongRow(Exception):
    """code, detail: of what is wrong with a row."""


def _wrong(detail: str, code: str = "wrong-format") -> _WrongRow:
    return _WrongRow(code, detail)


# Before rows are read


def kind_of(required: list[str]) -> str:
    """chat, pair, reply, prompt or text: what a stage that requires these columns reads."""
    return next((kind for column, kind in _KINDS.items() if column in required), "text")


def format_columns(source: Source, required: list[str], optional: list[str]) -> tuple[list[str], list[str]]:
    """(required, optional) columns of the source for a stage with these columns.

    Raises Refusal format-not-for-stage, bad-value, no-effect: options of the source that do not fit.
    """
    kind = kind_of(required)
    _check_options(source, kind)
    if source.format == "messages":
        return required, optional
    needs, may = _COLUMNS[source.format][kind]
    return [*needs, *_SHAPES[kind]], may


def _check_options(source: Source, kind: str) -> None:
    if kind == "text" and source.format != "messages":
        message = f"format: {source.format} is of conversations, and this stage reads text"
        fix = "remove `format:`, and name the column of the text in the stage's own section"
        raise refuse("format-not-for-stage", message, fix, source.path)
    for name, role in source.roles.items():
        if role not in ROLES:
            message = f"roles: {name!r} is mapped to {role!r}"
            raise refuse("bad-value", message, f"the roles are {', '.join(ROLES)}", source.path)
    reads_roles = kind != "text" and source.format in ("messages", "sharegpt", "prompt_completion")
    unused = {
        "roles": source.roles and not reads_roles,
        "system": source.system is not None and kind == "text",
        "field": source.field and ".json" not in plain_endings(source.path),
        "text_by": source.text_by != "line" and ".txt" not in plain_endings(source.path),
    }
    why = {
        "roles": "the names Human and Assistant are fixed"
        if source.format == "hh"
        else "these rows have no role names",
        "system": "this stage reads text",
        "field": "it is the key of the rows in a .json file",
        "text_by": "it divides a .txt file",
    }
    for option in (option for option, is_unused in unused.items() if is_unused):
        message = f"{option} of this source has no effect: {why[option]}"
        raise refuse("no-effect", message, "remove it", source.path)


def converts(source: Source) -> bool:
    """Whether rows of the source are converted in any case, however they are stored."""
    return source.format != "messages" or bool(source.roles) or source.system is not None


def name_map(source: Source, required: list[str], optional: list[str]) -> dict[str, str]:
    """{column of the format: its name in the source}, whether the source has it or not."""
    return {c: source.columns.get(c, c) for c in chain(*format_columns(source, required, optional))}


def fitting(source: Source, rows: list[dict], has: list[str], required: list[str]) -> str:
    """How to read a source with the columns `has` that lacks one of those of its format; empty if unknown.

    rows: some of its rows.
    """
    kind = kind_of(required)
    first = next(iter(rows), {})
    if plain_endings(source.path) & {".csv", ".txt"}:  # of which the first check reads the names alone
        first = first or dict.fromkeys(has, "")
    if source.path.endswith((".json", ".json.gz", ".json.zst")) and not source.field:
        lists = [k for k, v in first.items() if isinstance(v, dict) or (v and _is_list_of_objects(v))]
        if len(rows) == 1 and lists and not _conversation_column(first):
            return f"name the key of the rows: `field: {lists[0]}`"
        if has == ["data"] or (len(has) == 1 and isinstance(first.get(has[0]), dict)):
            return f"name the key of the rows: `field: {has[0]}`"
    if other := _other_rows(kind, first, has):
        return other
    if kind == "text":  # no format makes text of other columns
        return ""
    if (column := _conversation_column(first)) and kind in ("chat", "reply", "prompt"):
        named = "sharegpt" if "from" in first[column][0] else "messages"
        ours = {"sharegpt": "conversations", "messages": "messages" if kind == "chat" else "prompt"}[named]
        columns = "" if column == ours else f" and `columns: {{{ours}: {column}}}`"
        if named == "messages" and kind == "reply":
            return (
                f"write the messages of {column!r} as `prompt`, and the last one, the reply, as `completion`"
            )
        if named == "messages" and source.format == "messages":
            return f"map the column name: `columns: {{{ours}: {column}}}`" if columns else ""
        if source.format != named and (kind == "chat" or named == "sharegpt"):
            return f"set `format: {named}`{columns} on this source"
    if kind == "chat" and (texts := [c for c in has if _is_hh(first.get(c))]):
        return f"set `format: hh` and `columns: {{text: {texts[0]}}}` on this source"
    for name in ("alpaca", "prompt_completion", "question_answer"):
        needs = [*_COLUMNS[name][kind][0], *_SHAPES[kind]]
        if name != source.format and all(column in has for column in needs):
            return f"set `format: {name}` on this source"
    if source.format != "messages" and all(column in has for column in required):
        return "set `format: messages` on this source"
    if kind == "chat" and source.format == "messages" and len(_texts_of(first)) > 1:
        columns = "`columns: {question: <its name>, answer: <its name>}`"
        return f"of two columns of text, set `format: question_answer` and {columns} on this source"
    return ""


def _texts_of(row: dict) -> list[str]:
    """The columns of a row that hold a string, other than messages as JSON."""
    return [c for c, value in row.items() if isinstance(value, str) and not value.lstrip().startswith("[{")]


def _other_rows(kind: str, first: dict, has: list[str]) -> str:
    """What to do with rows of which no format makes rows of this kind; empty if one may."""
    conversation = _conversation_column(first)
    if kind == "text":
        if conversation:
            return f"{conversation!r} holds conversations, which the sft stage reads: give rows with a column of text"
        return ""
    chats = [
        _COLUMNS[name]["chat"][0] for name in ("sharegpt", "alpaca", "prompt_completion", "question_answer")
    ]
    is_chat = conversation or any(all(column in has for column in columns) for columns in chats)
    if kind in ("pair", "reply") and is_chat and not any(column in has for column in _SHAPES[kind]):
        if conversation in ("chosen", "rejected") or any(isinstance(value, bool) for value in first.values()):
            return ""
        lacks = "pairs of replies" if kind == "pair" else "labels of replies"
        return f"these rows hold conversations and no {lacks}: train on them with the sft stage, or use another file"
    if kind == "chat" and not is_chat and len(has) == 1 and _texts_of(first) and not _is_hh(first[has[0]]):
        return "these rows hold text, no conversation: train on text with the pretrain stage, or use another file"
    return ""


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _conversation_column(row: dict) -> str | None:
    """The first column that holds a list of messages in either vocabulary."""
    for column, value in row.items():
        if _is_list_of_objects(value) and ("from" in value[0] or "role" in value[0]):
            return column
    return None


def _is_hh(value: Any) -> bool:
    return isinstance(value, str) and bool(re.match(r"\s*Human:", value)) and "Assistant:" in value


# Rows


def converter(source: Source, required: list[str]) -> Callable[[dict], dict]:
    """The function that makes of a row with the columns of the source's format one with those of the stage.

    A row that cannot be converted becomes {FAULT: [code, detail]}. required: the columns of the stage.
    """
    kind = kind_of(required)
    if kind == "text":
        return lambda row: row
    columns, plain = _CONVERSATIONS[kind], not converts(source)
    has_labels = kind == "reply" and ".csv" in plain_endings(source.path)

    def convert(row: dict) -> dict:
        if plain and not has_labels and _is_plain(row, columns):
            return row
        try:
            if has_labels:
                row = row | {"label": _truth(row.get("label"))}
            if source.format == "messages":
                return _messages_row(row, source, columns)
            found = _READERS[source.format](row, source, kind)
        except _WrongRow as wrong:
            return {FAULT: list(wrong.args)}
        return found | {"tools": row["tools"]} if row.get("tools") else found

    return convert


def _is_plain(row: dict, columns: tuple[str, ...]) -> bool:
    """Whether the conversations of a row are lists of messages with one string as content."""
    for column in columns:
        value = row.get(column)
        if isinstance(value, list):
            if not is_simple(value):
                return False
        elif column == "messages" and isinstance(value, str):
            return False
    return True


def is_simple(messages: list) -> bool:
    """Whether no content is a list of parts."""
    for message in messages:  # noqa: SIM110 - a generator takes twice as long
        if type(message) is dict and type(message.get("content")) is list:
            return False
    return True


def _truth(label: Any) -> Any:
    """The label of a .csv, in which every cell is a string."""
    return (
        {"true": True, "false": False}.get(label.strip().lower(), label) if isinstance(label, str) else label
    )


def _messages_row(row: dict, source: Source, columns: tuple[str, ...]) -> dict:
    """Our own format: messages stored as JSON are parsed, lists of text parts are joined."""
    messages = row.get("messages")
    if isinstance(messages, str):
        row = row | {"messages": _parse(messages, "messages")}
    for column in columns:
        value = row.get(column)
        if isinstance(value, list):
            row = row | {column: [_message(m, n, column, source.roles) for n, m in enumerate(value, start=1)]}
    return row if source.system is None else _with_system(row, source.system)


def _with_system(row: dict, system: str) -> dict:
    """The row whose conversation, or whose prompt, begins with a system message."""
    column = "messages" if "messages" in row else "prompt" if row.get("prompt") is not None else None
    columns = [column] if column else ["chosen", "rejected"]
    for name in columns:
        if not isinstance(row.get(name), list):
            raise _wrong(f"{name} is no list of messages, which `system:` could precede")
        row = row | {name: _begin(system, row[name])}
    return row


def _begin(system: str | None, messages: list) -> list:
    """The messages, with a system message in front if there is a text for it and they have none."""
    if not system or (messages and isinstance(messages[0], dict) and messages[0].get("role") == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _message(message: Any, number: int, column: str, roles: dict[str, str]) -> Any:
    """A message with its role mapped by `roles` and its text parts joined; what is no message is left."""
    if not isinstance(message, dict):
        return message
    if isinstance(message.get("role"), str) and message["role"] in roles:
        message = message | {"role": roles[message["role"]]}
    if isinstance(message.get("content"), list):
        text = _text_of(message["content"], f"{column}: message {number} ({message.get('role')})")
        message = message | {"content": text}
    return message


def _text_of(parts: list, where: str) -> str:
    """The text of a list of parts, {type: text, text: ...} or a string each."""
    texts = []
    for part in parts:
        part = {"text": part} if isinstance(part, str) else part
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if kind not in ("text", "input_text", "output_text"):
            raise _wrong(f"{where} has a part of type {kind}, not text", "content-not-text")
        text = part.get("text")
        if not isinstance(text, str):
            raise _wrong(f"{where} has a text part without text", "content-not-text")
        texts.append(text)
    return "".join(texts)


def _parse(text: str, column: str) -> list:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"{column} is a string, and not JSON", "not-messages") from error
    if not isinstance(found, list):
        raise _wrong(f"{column} is JSON, but not a list of messages", "not-messages")
    if half := half_pair(found):
        raise _wrong(f"{column} is JSON, but {half}", "not-messages")
    return found


def _text(row: dict, column: str, optional: bool = False) -> str:
    value = row.get(column)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        what = "missing" if value is None else f"{type(value).__name__}, not a string"
        raise _wrong(f"{column} is {what}")
    return value


def _user(text: str) -> dict:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def _join(kind: str, prompt: list, replies: dict[str, list], label: Any = None) -> dict:
    """The row of a kind from the messages of its prompt and its replies by column."""
    if kind == "chat":
        return {"messages": [*prompt, *replies["completion"]]}
    if kind == "reply":
        return {"prompt": prompt, "completion": replies["completion"], "label": label}
    return {"prompt": prompt, **replies}


# One function per format: (row, source, kind) -> row of the stage


def _sharegpt(row: dict, source: Source, kind: str) -> dict:
    system = _text(row, "system", optional=True) or source.system
    turns = _turns(row, "conversations", source) if row.get("conversations") is not None else []
    if kind == "pair":
        replies = {column: _turns(row, column, source) for column in ("chosen", "rejected")}
        if turns:
            return _join(kind, _begin(system, turns), replies)
        return {column: _begin(system, reply) for column, reply in replies.items()}
    if "conversations" in row and not turns:
        raise _wrong("conversations is empty", "no-messages")
    turns = _begin(system, turns)
    if kind == "chat":
        return {"messages": turns}
    if kind == "prompt":
        return {"prompt": turns}
    return _split_reply(turns, row.get("label"))


def _turns(row: dict, column: str, source: Source) -> list[dict]:
    """Messages of {from, value}, in one of which a reply may stand alone; other keys are kept."""
    found = row.get(column)
    found = [found] if isinstance(found, dict) else found
    if isinstance(found, str):
        found = _parse(found, column)
    if not isinstance(found, list):
        raise _wrong(f"{column} is {type(found).__name__}, not a list of {{from, value}}")
    turns = []
    for number, turn in enumerate(found, start=1):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            keys = ", ".join(map(repr, turn)) if isinstance(turn, dict) else type(turn).__name__
            raise _wrong(f"{column}: message {number} has no `from` and `value`; it has {keys}")
        name = turn["from"]
        role = source.roles.get(name) or _SHAREGPT_ROLES.get(name) if isinstance(name, str) else None
        if role is None and not (isinstance(name, str) and isinstance(turn["value"], str)):
            raise _wrong(f"{column}: message {number} has the role {name!r}", "unknown-role")
        role = role or name  # row_fault reports it, with all others of the source
        rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
        turns.append({"role": role, "content": turn["value"], **rest})
    return turns


def _split_reply(turns: list[dict], label: Any) -> dict:
    if not turns or turns[-1]["role"] in ("system", "user", "tool"):
        raise _wrong("the last message is not a reply", "prompt-only")
    return _join("reply", turns[:-1], {"completion": turns[-1:]}, label)


def _alpaca(row: dict, source: Source, kind: str) -> dict:
    question = _text(row, "instruction")
    if extra := _text(row, "input", optional=True).strip():
        question = f"{question}\n\n{extra}"
    return _answered(question, row, source, kind, "output")


def _question_answer(row: dict, source: Source, kind: str) -> dict:
    return _answered(_text(row, "question"), row, source, kind, "answer")


def _answered(question: str, row: dict, source: Source, kind: str, answer: str) -> dict:
    """One question with its answer, or its answers by column."""
    prompt = _begin(_text(row, "system", optional=True) or source.system, [_user(question)])
    columns = {"pair": {"chosen": "chosen", "rejected": "rejected"}, "prompt": {}}
    theirs = columns.get(kind, {"completion": answer})
    replies = {ours: [_assistant(_text(row, name))] for ours, name in theirs.items()}
    return _join(kind, prompt, replies, row.get("label"))


def _prompt_completion(row: dict, source: Source, kind: str) -> dict:
    def messages(column: str, role: str) -> list:
        value = row.get(column)
        if isinstance(value, list):
            return [_message(m, n, column, source.roles) for n, m in enumerate(value, start=1)]
        return [{"role": role, "content": _text(row, column).strip()}]

    columns = {"pair": ["chosen", "rejected"], "prompt": []}.get(kind, ["completion"])
    prompt = _begin(source.system, messages("prompt", "user"))
    replies = {column: messages(column, "assistant") for column in columns}
    return _join(kind, prompt, replies, row.get("label"))


def _hh(row: dict, source: Source, kind: str) -> dict:
    if kind != "pair":
        turns = _begin(source.system, _dialogue(row, "text"))
        if kind == "prompt":
            # A prompt ends where the reply is to begin.
            return {"prompt": turns[:-1] if turns[-1] == _assistant("") else turns}
        return {"messages": turns} if kind == "chat" else _split_reply(turns, row.get("label"))
    chosen, rejected = (_dialogue(row, column) for column in ("chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    rest = chosen[shared:], rejected[shared:]
    if any(len(part) != 1 or part[0]["role"] != "assistant" for part in rest):
        joined = next((hint for column in ("chosen", "rejected") if (hint := _joined_turns(row[column]))), "")
        raise _wrong(f"chosen and rejected differ before the last reply{joined}", "pair-prompts-differ")
    prompt = _begin(source.system, chosen[:shared])
    return _join(kind, prompt, {"chosen": rest[0], "rejected": rest[1]})


def _dialogue(row: dict, column: str) -> list[dict]:
    """The messages of "\\n\\nHuman: ...\\n\\nAssistant: ...", which starts with the human."""
    before, *parts = _HH_TURN.split("\n\n" + _text(row, column).lstrip())
    if before or not parts or parts[0] != "Human":
        raise _wrong(f"{column} does not start with 'Human:'")
    if len(parts) == 2 and (joined := _joined_turns(parts[1])):
        raise _wrong(f"{column} has one turn only{joined}")
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _HH_ROLES[name], "content": text.strip()} for name, text in turns]


def _joined_turns(text: str) -> str:
    """What is said of a text in which a single line break precedes the name of a role; empty for another."""
    found = re.search(r"(?<!\n)\n[ \t]*(Human|Assistant):", text)
    return (
        f": a blank line separates two turns, and here `{found[1]}:` follows a single line break"
        if found
        else ""
    )


_READERS = {
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "question_answer": _question_answer,
    "hh": _hh,
}
