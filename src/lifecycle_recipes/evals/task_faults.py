"""Faults of a local lm-eval task that would stop an evaluation after training. No torch, no lm-eval.

lm-eval finds them when it builds the task; a task's code is read here, not run.
"""

import ast
import functools
import importlib.util
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from ..finding import Finding
from ..recipe.task_files import DEFAULT_METRICS, Function, TaskFile

DEFINE_BY_TEXT = ("globals", "setattr", "exec", "vars")


def find_in_task(task: TaskFile) -> list[Finding]:
    """bad-task for keys, types, splits and functions with which lm-eval cannot build this task."""
    config, where = task.config, str(task.path)
    if "class" in config:  # a task that is written in Python: its code decides
        return []
    found = []
    for key in config:
        if task_keys() and key not in task_keys():
            near = get_close_matches(str(key), task_keys(), 1)
            fix = f"did you mean {near[0]}?" if near else "remove it"
            found.append(Finding.error("bad-task", f"lm-eval knows no key {key} of a task", fix, where))
    kind = config.get("output_type", "generate_until")
    if kind not in DEFAULT_METRICS:
        message, fix = f"output_type cannot be {kind!r}", f"choose from {', '.join(DEFAULT_METRICS)}"
        found.append(Finding.error("bad-task", message, fix, where))
    if not config.get("dataset_path") and not config.get("custom_dataset"):
        fix = "write `dataset_path: json` with dataset_kwargs.data_files, or an id of the Hub"
        found.append(Finding.error("bad-task", "the task has no dataset_path", fix, where))
    if not config.get("test_split") and not config.get("validation_split"):
        message = "the task has neither a test_split nor a validation_split"
        found.append(Finding.error("bad-task", message, "write `test_split: test`", where))
    return found + [finding for function in _functions(config) for finding in _find_function(function, where)]


def _functions(value) -> Iterator[Function]:
    """Every `!function module.name` of a task."""
    if isinstance(value, Function):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _functions(item)


def _find_function(function: Function, where: str) -> list[Finding]:
    module, _, name = function.rpartition(".")
    file = Path(function.folder, *module.split(".")).with_suffix(".py")
    if not file.is_file():
        if module and _can_be_imported(module):
            return []
        message = f"`!function {function}`: there is no file {file}"
        return [Finding.error("bad-task", message, "write the file, or correct the name", where)]
    try:
        defined = set(_defined(ast.parse(file.read_bytes())))
    except SyntaxError as error:
        message = f"`!function {function}`: {error.msg}"
        return [Finding.error("bad-task", message, "correct the file", f"{file}:{error.lineno}")]
    if name in defined or "*" in defined:
        return []
    near = get_close_matches(name, defined, 1)
    fix = f"did you mean {near[0]}?" if near else "define it, or correct the name"
    message = f"`!function {function}`: {file} defines no {name}"
    return [Finding.error("bad-task", message, fix, where)]


def _can_be_imported(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names that a module defines or imports anywhere; `*` where it may define others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                yield node.id
            elif node.id in DEFINE_BY_TEXT:
                yield "*"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name) for alias in node.names)


@functools.cache
def task_keys() -> list[str]:
    """The keys of a task's YAML, from the source of lm-eval's TaskConfig; [] if that is not there."""
    package = importlib.util.find_spec("lm_eval")
    for folder in package.submodule_search_locations if package else []:
        file = Path(folder, "config", "task.py")
        for node in ast.parse(file.read_bytes()).body if file.is_file() else []:
            if isinstance(node, ast.ClassDef) and node.name == "TaskConfig":
                return [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
    return []
