"""Which evaluation data the recipes of a life name, and the items in it. No torch.

An item is what a model is asked: a prompt or question, or a held-out text. Its answer alone is no item, since a
document may well state the fact. A question that is too short to be found, or that several rows share ("Which of
these is true?"), is an item together with its choices or its answer.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..data.config import Source
from ..data.row_files import check_local, find_files, read_file
from ..data.task_files import is_remote, leaves, members, read_tasks
from ..finding import Refusal
from ..recipe.read import RawRecipe, read_recipe, real_path, recipes_in
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
class EvaluationSet:
    """path: a file of evaluation data. named: where a recipe names it, `recipes/mine/sft.yaml:12`."""

    path: str
    named: str


@dataclass(frozen=True)
class Item:
    """path: of its set. line: its line, or the number of its row if rows are no lines, from 1."""

    path: str
    line: int
    text: str


def is_findable(item: Sequence[str]) -> bool:
    """Whether the words of an item are enough to find it: at least FEWEST_WORDS, not all of them function words."""
    return len(item) >= FEWEST_WORDS and not FUNCTION_WORDS.issuperset(item)


# Which sets


def find_evaluation_sets(recipe_path: str | Path) -> list[EvaluationSet]:
    """The evaluation data that the recipes beside this one, and it itself, name: each file once.

    These are `evaluate.prompts`, `data.eval_sources` and the files of the tasks in `evaluate.include_path`. Left out
    are data sets of the Hub, files that do not exist, and those in an output_dir, which a stage of this life writes.
    A recipe or task file that cannot be read is skipped here: the check of its own stage refuses it.
    """
    recipes = list(_readable(recipes_in(Path(recipe_path).parent)))
    made = [real_path(directory) for raw in recipes for directory in _output_dirs(raw)]
    found: dict[str, EvaluationSet] = {}
    for raw in recipes:
        for path, named in _named_files(raw):
            real = Path(real_path(path))
            if real.is_file() and not any(real.is_relative_to(directory) for directory in made):
                found.setdefault(str(real), EvaluationSet(_short(path), named))
    return list(found.values())


def _short(path: str) -> str:
    """The path below the working directory, where it is there: those of task files are absolute."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _readable(paths: Iterable[Path]) -> Iterator[RawRecipe]:
    for path in paths:
        try:
            yield read_recipe(path)
        except Refusal:
            continue


def _output_dirs(raw: RawRecipe) -> list[str]:
    sections = [section for section in raw.values.values() if isinstance(section, dict)]
    return [section["output_dir"] for section in sections if section.get("output_dir")]


def _named_files(raw: RawRecipe) -> Iterator[tuple[str, str]]:
    """(file, place in the recipe) of all evaluation data that a recipe names."""
    evaluate = raw.values.get("evaluate") or {}
    if prompts := evaluate.get("prompts"):
        yield prompts, raw.place("evaluate.prompts")
    for n, source in enumerate((raw.values.get("data") or {}).get("eval_sources") or []):
        for file in _source_files(source["path"]):
            yield file, raw.place(f"data.eval_sources[{n}].path")
    for file in _task_files(evaluate):
        yield file, raw.place("evaluate.tasks")


def _source_files(path: str) -> list[str]:
    try:
        return find_files(path) if check_local(path) else []
    except (Refusal, OSError, ValueError):
        return []


def _task_files(evaluate: dict) -> list[str]:
    """The data files of the splits on which the tasks of a recipe are evaluated. lm-eval's own tasks have none."""
    if not evaluate.get("include_path"):
        return []
    try:
        tasks = read_tasks(evaluate["include_path"])
    except (yaml.YAMLError, OSError, UnicodeDecodeError, TypeError):
        return []
    configs = [tasks[leaf].config for name in evaluate.get("tasks") or [] for leaf in members(name, tasks)]
    files = [file for config in configs for file in leaves(_evaluated(config))]
    return [
        found
        for file in files
        if isinstance(file, str) and not is_remote(file)
        for found in _source_files(file)
    ]


def _evaluated(config: dict) -> Any:
    """`data_files` of a task without its training split, if they name their splits. Source: lm_eval/api/task.py."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if not isinstance(files, dict):
        return files
    splits = {str(config.get(key)).partition("[")[0] for key in ("test_split", "validation_split")}
    return {split: file for split, file in files.items() if split in splits} or files


# Items of a set


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
