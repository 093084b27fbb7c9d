"""The items of a file of evaluation data. No torch.

An item is what a model is asked: a prompt or question, or a held-out text. Its answer alone is no item, since a
document may well state the fact. A question that is too short to be found, or that several rows share ("Which of
these is true?"), is an item together with its choices or its answer.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.config import Source
from ..data.row_files import read_file
from ..finding import Refusal
from .words import words

# The columns of well-known sets (MMLU, ARC, GSM8K, MATH, HellaSwag, PIQA, WinoGrande, COPA, NLI, TruthfulQA, SQuAD,
# BoolQ, MBPP, AlpacaEval, MT-bench) and of this project's formats. A row without any of the first has as items its
# strings of at least PROSE words.
_QUESTIONS = frozenset(
    "question prompt problem stem question_stem query instruction input goal ctx sentence sentence1 sentence2 "
    "premise hypothesis text content turns messages conversations".split()
)
# Read with a question that is no item by itself. A column of several numbers, `option1`, `sol2`, counts as one name.
_CHOICES = frozenset("choices options endings option sol choice mc1_targets".split())
_ANSWERS = frozenset(
    "answer answers target output completion response reply value solution canonical_solution best_answer "
    "correct_answer".split()
)
_USERS = frozenset(("user", "human"))
PROSE = 8
# Function words of English: they say nothing about what a question is about. A text of them alone is no item that
# could be found: "What is it about?" is in every second book.
FUNCTION_WORDS = frozenset(
    "a about above after again all also am an and any are as at be because been before being below between both but "
    "by can could did do does doing down during each either else few for from further get had has have having he her "
    "here hers him his how i if in into is it its itself just let ll may me might more most much must my no nor not "
    "now of off on once one only or other our ours out over own please re s same she should so some such t than that "
    "the their theirs them then there these they this those through to too under until up us ve very was we were "
    "what when where which while who whom whose why will with would you your yours".split()
)
FEWEST_WORDS = 3


@dataclass(frozen=True)
class Item:
    """path: of its set. line: its line, or the number of its row if rows are no lines, from 1."""

    path: str
    line: int
    text: str


def is_findable(item: Sequence[str]) -> bool:
    """Whether the words of an item are enough to find it: at least FEWEST_WORDS, not all of them function words."""
    return len(item) >= FEWEST_WORDS and not FUNCTION_WORDS.issuperset(item)


def read_items(path: str) -> list[Item]:
    """The items of a file of evaluation data, in its order. Raises Refusal for a file that cannot be read."""
    rows, numbers, _, findings = read_file(path, Source(path))
    if findings:
        raise Refusal(*findings)
    read = [(_questions(row), _beside(row)) for row in rows]
    # Each question with what stands beside it, once: a set may repeat a row, or ask one thing in two forms.
    pairs = {(tuple(words(text)), tuple(beside)) for questions, beside in read for text in questions}
    asked = Counter(question for question, _ in pairs)
    items = []
    for number, (questions, beside) in zip(numbers, read, strict=True):
        for text in dict.fromkeys(questions):
            asks = words(text)
            if asked[tuple(asks)] > 1 or not is_findable(asks):
                text = "\n".join([text, *beside])
            items.append(Item(path, number, text))
    return items


def _questions(row: dict) -> list[str]:
    named = [(_name(key), value) for key, value in row.items()]
    texts = [text for name, value in named if name in _QUESTIONS for text in _asked(value)]
    if not texts:
        texts = [text for name, value in named if name not in _ANSWERS | _CHOICES for text in _prose(value)]
    return [text for text in texts if text.strip()]


def _beside(row: dict) -> list[str]:
    """The choices of a row, or else its answer."""
    for names in (_CHOICES, _ANSWERS, _QUESTIONS):
        texts = [t for key, value in row.items() if _name(key) in names for t in _said(value, names)]
        if texts:
            return texts
    return []


def _name(key: Any) -> str:
    name = str(key).lower()
    return name if name in _QUESTIONS else re.sub(r"_?\d+$", "", name)


def _asked(value: Any) -> list[str]:
    """What a cell asks: its text, or the messages of the user; of later messages only those of PROSE words."""
    if isinstance(value, str):
        return [value]
    texts = [_content(m) for m in value if _is_asked(m)] if isinstance(value, list) else []
    return [text for n, text in enumerate(texts) if n == 0 or len(words(text)) >= PROSE]


def _is_asked(message: Any) -> bool:
    if isinstance(message, dict):
        return message.get("role", message.get("from")) in _USERS
    return isinstance(message, str)


def _content(message: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    content = message.get("content", message.get("value")) if isinstance(message, dict) else message
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _said(value: Any, names: frozenset[str]) -> list[str]:
    """The texts of choices and answers; of a conversation, the messages that are not the user's."""
    if isinstance(value, list) and any(isinstance(m, dict) for m in value):
        return [text for m in value if not _is_asked(m) and (text := _content(m))]
    if names is _QUESTIONS:
        return []
    return list(_strings(value))


def _strings(value: Any) -> Iterator[str]:
    """All texts in a cell but the letters of choices, which ARC has as `label`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for cell in [value[k] for k in value if k != "label"] if isinstance(value, dict) else value:
            yield from _strings(cell)


def _prose(value: Any) -> list[str]:
    return [text for text in _strings(value) if len(words(text)) >= PROSE]
