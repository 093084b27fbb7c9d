"""Load a rubric, a Python file of the user that defines `score(row, reply)`, from its path. No torch."""

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ..finding import FAILED, Finding, Refusal, refuse


def load_module(path: str | Path) -> ModuleType:
    """Execute a Python file and return it as a module that cannot be imported by name."""
    spec = importlib.util.spec_from_file_location(f"rubric_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_score(path: str | Path) -> Callable[[dict, str], float]:
    """The file's `score(row, reply) -> 0..1`. Raises Refusal: no-score."""
    score = getattr(load_module(path), "score", None)
    if not callable(score):
        raise refuse(
            "no-score", "the rubric has no function score(row, reply)", "define the function", str(path)
        )

    def checked(row: dict, reply: str) -> float:
        value = score(row, reply)
        if not isinstance(value, int | float) or not math.isfinite(value):
            message = f"the rubric's score(row, reply) returned {value!r}, not a number"
            finding = Finding.error("no-score", message, "return a number from 0 to 1", str(path))
            raise Refusal(finding, status=FAILED)
        return float(value)

    return checked


def read_prompts(path: str | Path, limit: int | None = None) -> list[dict]:
    """The rows of a .jsonl file of prompts, unchanged; only the first `limit` if it is given."""
    with Path(path).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][:limit]


def as_messages(prompt: str | list[dict]) -> list[dict]:
    """A prompt as chat messages; plain text becomes a user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
