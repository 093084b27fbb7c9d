"""Leave out pairs and thumbs that teach nothing, or the opposite of another row.

Deduplication compares rows; here the replies of one row are compared with each other, and the labels of rows with
the same question. A pair whose replies differ in format or length alone teaches a reward model just that: reward
models prefer longer replies (arXiv:2310.03716) and lists, bold words and emoji (arXiv:2409.11704).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .documents import Decide, Shard, Shards, Verdict
from .words import words

READS = "rows"
SCORED = ("min_shared_words",)
PACKAGES = ()


@dataclass
class Preferences:
    """Leave out pairs whose replies hardly differ, and rows that contradict each other. For pairs and thumbs.

    same_pair: leave out pairs of two equal replies.
    only_format_differs: leave out pairs whose replies have the same words and symbols, and differ in markup, list
    markers, white space, case or sentence punctuation. Code in fences is compared as it is.
    only_length_differs: leave out pairs in which one reply is a contiguous part of the other: a truncation, or a
    reply with words before or after it. Source of both: the biases of reward models (arXiv:2310.03716,
    arXiv:2409.11704).
    min_shared_words: words of the shorter reply from which on only_length_differs judges. Of shorter replies
    nothing is known: `Paris` is a part of `not Paris`. The value is ours.
    contradicting_labels: rows with the same question, a pair in both orders or a reply with both labels.
    `minority` leaves out those against the majority, and on a tie all of them; `all` leaves out all; `off` none.
    Rows that an earlier step leaves out have a vote.
    """

    same_pair: bool = True
    only_format_differs: bool = True
    only_length_differs: bool = True
    min_shared_words: int = 8
    contradicting_labels: Literal["minority", "all", "off"] = "minority"


# Scores


def score(rows: Sequence[Mapping[str, Any]], settings: Preferences) -> dict[str, list]:
    """One value per row, None where it does not apply:

    difference: of a pair, `same`, `format`, `length` or `content`.
    length_difference: words of the chosen reply minus those of the rejected one. longer_chosen: whether the longer
    one is chosen; None for equal lengths.
    question: a hash of what is judged: a prompt with its two replies in any order, or with its reply.
    vote: the judgement, of the two that are possible.
    """
    scored = [_score_row(row, settings) for row in rows]
    columns = ("difference", "length_difference", "longer_chosen", "question", "vote")
    return {column: [values.get(column) for values in scored] for column in columns}


def _score_row(row: Mapping[str, Any], settings: Preferences) -> dict[str, Any]:
    if "chosen" in row:
        return _score_pair(row, settings)
    if "completion" in row:
        asked = _hash(_prompt(row), _one_line(_text(row["completion"])))
        return {"question": asked, "vote": bool(row["label"])}
    return {}


def _score_pair(row: Mapping[str, Any], settings: Preferences) -> dict[str, Any]:
    shared, chosen, rejected = _split(row["chosen"], row["rejected"])
    lengths = len(words(chosen)), len(words(rejected))
    replies = _one_line(chosen), _one_line(rejected)
    return {
        "difference": _difference(chosen, rejected, settings.min_shared_words),
        "length_difference": lengths[0] - lengths[1],
        "longer_chosen": None if lengths[0] == lengths[1] else lengths[0] > lengths[1],
        "question": _hash(_prompt(row), shared, *sorted(replies)) if replies[0] != replies[1] else None,
        "vote": replies[0] < replies[1] if replies[0] != replies[1] else None,
    }


def _split(chosen: Any, rejected: Any) -> tuple[str, str, str]:
    """(the messages with which both begin, the rest of each) as texts; strings share nothing."""
    same = 0
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
            same += 1
        if same == len(chosen) == len(rejected):  # equal conversations have equal replies
            same = max(0, same - 1)
        return _text(chosen[:same], roles=True), _text(chosen[same:]), _text(rejected[same:])
    return "", _text(chosen), _text(rejected)


def _text(part: Any, roles: bool = False) -> str:
    """The text of a string or of messages, with what else they hold: two tool calls are not equal replies."""
    if isinstance(part, str) or part is None:
        return part or ""
    lines = []
    for message in part:
        rest = {k: v for k, v in message.items() if v and k not in ("role", "content")}
        content = message.get("content") or ""
        lines += [message["role"]] if roles else []
        lines += [content if isinstance(content, str) else json.dumps(content, sort_keys=True)]
        lines += [json.dumps(rest, sort_keys=True)] if rest else []
    return "\n".join(lines)


def _prompt(row: Mapping[str, Any]) -> str:
    return _one_line(_text(row.get("prompt"), roles=True) + json.dumps(row.get("tools")))


def _one_line(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _hash(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _difference(chosen: str, rejected: str, min_shared_words: int) -> str:
    if chosen.strip() == rejected.strip():
        return "same"
    one, other = plain_tokens(chosen), plain_tokens(rejected)
    if one == other:
        return "format"
    short, long = sorted((one, other), key=len)
    return "length" if len(short) >= min_shared_words and _is_part(short, long) else "content"


def _is_part(short: list[str], long: list[str]) -> bool:
    """Whether `short` is a contiguous part of `long`, or its start up to the middle of a token."""
    part, whole = "\n".join(short), "\n".join(long)
    return whole.startswith(part) or f"\n{part}\n" in f"\n{whole}\n"


# Without format

_FENCE = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+)[^\n`]*\n(?P<code>.*?)(?:^[ \t]*(?P=fence)[ \t]*$|\Z)", re.M | re.S
)
_RULE = re.compile(r"^\s*(?:[-*_=] ?){3,}\s*$|^\s*\|?(?:\s*:?-+:?\s*\|)+\s*(?::?-+:?)?\s*$")
_HTML = re.compile(r"</?(?:b|i|u|em|strong|p|br|hr|ul|ol|li|h[1-6]|div|span)\b[^<>]*>", re.I)
_LINE_START = re.compile(r"^\s*(?:>\s*)*(?:#{1,6}\s+|[-*+•‣◦·–—]\s+(?:\[[ xX]\]\s+)?)?")
_NUMBER = re.compile(r"^\s*(?:\*\*)?(\d{1,3})[.)]\s+")
# Around words only: `2 * 3` and `snake_case` are not markup. Short, so that a line of many stars takes no hours.
_EMPHASIS = re.compile(r"(?<!\w)(\*\*\*|\*\*|\*|___|__|_|~~|``|`)(?=\S)([^\n]{1,300}?)(?<=\S)\1(?!\w)")
# A number with its separators, a word with its apostrophes and hyphens, or one symbol.
_TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d]+(?:['’-][^\W\d]+)*|[^\w\s]|\w")
# Punctuation of sentences. Brackets, operators and signs are not: `f(x)`, `-5` and `a < b` are content.
_PUNCTUATION = frozenset(".,;:!?…\"“”„«»'‘’–—¿¡。，、；：！？")


def plain_tokens(text: str) -> list[str]:
    """The words, numbers and symbols of a text in lower case, without Markdown, HTML tags and punctuation.

    Each line of fenced code is one token, as it is.
    """
    tokens, end = [], 0
    text = unicodedata.normalize("NFC", text)
    for fence in _FENCE.finditer(text):
        tokens += _tokens_of_prose(text[end : fence.start()])
        tokens += [line.rstrip() for line in fence["code"].split("\n") if line.strip()]
        end = fence.end()
    return tokens + _tokens_of_prose(text[end:])


def _tokens_of_prose(text: str) -> list[str]:
    lines = [line for line in _HTML.sub(" ", text).split("\n") if line.strip() and not _RULE.match(line)]
    lines = [_LINE_START.sub("", line) for line in _without_numbers(lines)]
    lines = [line.replace("|", " ") if line.startswith("|") else line for line in lines]
    plain = "\n".join(lines)
    for _ in range(3):  # bold in italics, with code inside
        plain = _EMPHASIS.sub(r"\2", plain)
    found = _TOKEN.findall(plain.lower().replace("’", "'"))
    return [token for token in found if token not in _PUNCTUATION]


def _without_numbers(lines: list[str]) -> list[str]:
    """Without the numbers of lists that count from 1 to at least 2: a lone `2.` may be the answer."""
    numbers = [_NUMBER.match(line) for line in lines]
    markers: set[int] = set()
    run: list[int] = []
    for i, number in enumerate(numbers):
        if number is None:
            continue
        run = [*run, i] if int(number[1]) == len(run) + 1 else [i] if int(number[1]) == 1 else []
        markers |= set(run) if len(run) > 1 else set()
    return [line[numbers[i].end() :] if i in markers else line for i, line in enumerate(lines)]


# Decision

_REASONS = {"same": "same-pair", "format": "only-format-differs", "length": "only-length-differs"}


def decider(settings: Preferences, shards: Shards) -> Decide:
    """Reads all scores first, for the rows that contradict each other; about 120 bytes of memory per row."""
    used = {"same": settings.same_pair, "format": settings.only_format_differs}
    used["length"] = settings.only_length_differs
    contradicted = {} if settings.contradicting_labels == "off" else _contradicted(shards)

    def decide(shard: Shard, alive: Sequence[bool]) -> dict[int, Verdict]:
        scores, verdicts = shard.scores, {}
        for i in range(len(shard)):
            if not alive[i]:
                continue
            reasons, detail = [], {}
            if used.get(scores["difference"][i]):
                reasons.append(_REASONS[scores["difference"][i]])
                detail["length_difference"] = scores["length_difference"][i]
            if votes := contradicted.get(scores["question"][i]):
                own = int(scores["vote"][i])
                if settings.contradicting_labels == "all" or votes[own].count <= votes[1 - own].count:
                    reasons.append("contradicting-labels")
                    against = votes[1 - own]
                    detail["against"] = shards.id(against.first)
                    detail["votes"] = {"like_this": votes[own].count, "against": against.count}
            if reasons:
                verdicts[i] = Verdict(tuple(reasons), detail)
        return verdicts

    return decide


@dataclass
class _Votes:
    """How many rows have one of the two votes, and the number of the first of them."""

    count: int = 0
    first: int = -1


def _contradicted(shards: Shards) -> dict[bytes, tuple[_Votes, _Votes]]:
    """{question with both votes: (rows that vote false, rows that vote true)}."""
    first: dict[bytes, bool] = {}
    both: dict[bytes, tuple[_Votes, _Votes]] = {}
    for _, question, vote in _judged(shards):
        if first.setdefault(question, vote) != vote:
            both[question] = (_Votes(), _Votes())
    for number, question, vote in _judged(shards) if both else ():
        if question in both:
            votes = both[question][vote]
            votes.first = number if not votes.count else votes.first
            votes.count += 1
    return both


def _judged(shards: Shards):
    for shard in shards:
        for i, question in enumerate(shard.scores["question"]):
            if question is not None:
                yield shard.first + i, question, bool(shard.scores["vote"][i])
