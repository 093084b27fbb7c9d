"""The true rubric of the desk: a program that judges a reply to a request. Nothing here is learnt.

A request row has `kind` and `spec`: {"service", "values": {attribute: value}, "page"}. A reply keeps the
product contract when it has the form that its kind asks for; among replies that keep it, the better ones
are right, have no filler before or after the answer, and name their source.
"""

import json
import re

OPENERS = ("Great question!", "Sure, happy to help!", "Thanks for reaching out!")
CLOSERS = ("Let me know if you need anything else.", "I hope this helps!", "Have a great day!")
REFUSAL = "I can't share that."
CLARIFICATION = "Which service do you mean?"
# Weights of the score of a reply that keeps the contract; without it the score is 0.
KEPT, RIGHT, STYLE = 0.4, 0.3, 0.3


def _strip_style(reply: str) -> tuple[str, bool, bool, bool]:
    """(answer without its filler and source, has an opener, has a closer, has a source sentence)."""
    text, opener, closer = reply.strip(), False, False
    for phrase in OPENERS:
        if text.startswith(phrase):
            text, opener = text[len(phrase) :].strip(), True
    for phrase in CLOSERS:
        if text.endswith(phrase):
            text, closer = text[: -len(phrase)].strip(), True
    match = re.search(r"\s*See the [A-Z]\w+ (page|runbook|policy)\.$", text)
    return (text[: match.start()] if match else text).strip(), opener, closer, match is not None


def _as_json(reply: str) -> dict | None:
    try:
        value = json.loads(reply)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def contract(row: dict, reply: str) -> bool:
    """Whether `reply` has the form that the request's kind asks for. Facts are not judged here."""
    spec, reply = row["spec"], reply.strip()
    wanted = list(spec["values"])
    if row["kind"] == "json":
        value = _as_json(reply)
        return value is not None and set(value) - {"source"} == {"service", *wanted}
    if row["kind"] == "word":
        return re.fullmatch(r"\w+\.?", reply) is not None
    text, *_ = _strip_style(reply)
    lines = text.split("\n")
    if row["kind"] == "bullets":
        return [re.match(r"- (\w+): \w+$", line) and line[2:].split(":")[0] for line in lines] == wanted
    if row["kind"] == "steps":
        return len(lines) == 3 and all(re.match(rf"{i}\. \w.*\.$", line) for i, line in enumerate(lines, 1))
    if row["kind"] == "refuse":
        return re.fullmatch(re.escape(REFUSAL) + r" Please ask the \w+ team\.", text) is not None
    if row["kind"] == "clarify":
        return text == CLARIFICATION
    return len(lines) == 1 and spec["service"] in text and re.fullmatch(r"[^.?!]{3,90}\.", text) is not None


def right(row: dict, reply: str) -> bool:
    """Whether every value asked for is in the reply as a whole word."""
    return all(re.search(rf"\b{re.escape(v)}\b", reply) for v in row["spec"]["values"].values())


def score(row: dict, reply: str) -> float:
    """0 to 1: 0 when the contract is broken, else KEPT + RIGHT + STYLE shared over the flaws that apply."""
    if not contract(row, reply):
        return 0.0
    if row["kind"] == "word":
        style = 1.0
    elif row["kind"] == "json":
        style = float("source" in (_as_json(reply.strip()) or {}))
    else:
        _, opener, closer, source = _strip_style(reply)
        marks = [not opener, not closer] + ([source] if row["spec"]["page"] else [])
        style = sum(marks) / len(marks)
    return round(KEPT + RIGHT * right(row, reply) + STYLE * style, 4)
