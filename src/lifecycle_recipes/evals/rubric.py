"""Load a rubric, a Python file of the user that defines `score(row, reply)`, from its path. No torch."""

import contextlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ..finding import FAILED, Refusal, refuse

ROUNDING = 1e-6  # of a score that is a sum of parts


def load_module(path: str | Path) -> ModuleType:
    """Execute a Python file and return it as a module that cannot be imported by name.

    Raises Refusal rubric-fails, with the line, for whatever the file raises.
    """
    spec = importlib.util.spec_from_file_location(f"rubric_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _failed("the rubric cannot be imported", error, path) from error
    return module


def load_score(path: str | Path) -> Callable[[dict, str], float]:
    """The file's `score(row, reply) -> 0..1`. Raises Refusal: rubric-fails, no-score.

    The function raises the same for a row on which the rubric fails; status FAILED, since a run may call it.
    """
    score = getattr(load_module(path), "score", None)
    if not callable(score):
        raise refuse(
            "no-score", "the rubric has no function score(row, reply)", "define the function", str(path)
        )

    def checked(row: dict, reply: str) -> float:
        try:
            value = score(row, reply)
        except (Exception, SystemExit) as error:
            said = f"score(row, reply) fails for the prompt {_short(row.get('prompt'))} and the reply {_short(reply)}"
            raise _failed(said, error, path) from error
        if not isinstance(value, int | float) or not -ROUNDING <= value <= 1 + ROUNDING:
            message = f"the rubric's score(row, reply) returned {value!r}, not a number from 0 to 1"
            raise refuse("no-score", message, "return a number from 0 to 1", str(path), FAILED)
        return float(value)

    return checked


def try_rubric(path: str | Path, prompts: str | Path, limit: int | None = None) -> None:
    """Score an empty and a short reply to the first prompt, and to the first of each other set of keys.

    Raises Refusal: rubric-fails, no-score. So a mistake in the rubric costs no training. What the rubric prints goes
    to stderr: stdout may be JSON.
    """
    first_of_its_keys = {tuple(row): row for row in reversed(read_prompts(prompts, limit))}
    with contextlib.redirect_stdout(sys.stderr):
        score = load_score(path)
        for row in reversed(first_of_its_keys.values()):
            for reply in ("", "Yes."):
                score(dict(row), reply)


def _failed(what: str, error: BaseException, path: str | Path) -> Refusal:
    """rubric-fails, at the deepest line of the file `path` that the error passed through."""
    file = os.path.abspath(path)
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename, error.lineno))
    line = next((line for name, line in reversed(places) if name == file), None)
    message = f"{what}: {error.msg if isinstance(error, SyntaxError) else repr(error)}"
    where = f"{path}:{line}" if line else str(path)
    fix = "correct the rubric; score(row, reply) must return a number for every reply"
    return refuse("rubric-fails", " ".join(message.split()), fix, where, FAILED)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_prompts(path: str | Path, limit: int | None = None) -> list[dict]:
    """The rows of a .jsonl file of prompts, unchanged; only the first `limit` if it is given."""
    with Path(path).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][:limit]


def as_messages(prompt: str | list[dict]) -> list[dict]:
    """A prompt as chat messages; plain text becomes a user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
