"""lm-eval task files as plain YAML: which tasks exist, and which data each reads. No torch, no lm-eval.

lm-eval resolves `data_files` against the working directory, so a task runs only from one directory. Here a
relative path is looked up next to its YAML first, then in the working directory.
"""

import functools
from copy import deepcopy
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import yaml

# What lm-eval measures if a task names no metric (lm_eval/api/registry.py, DEFAULT_METRIC_REGISTRY).
DEFAULT_METRICS = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}


@dataclass(frozen=True)
class TaskFile:
    """One task or group: its file and its merged YAML, with functions as text and absolute data_files."""

    path: Path
    config: dict


class Function(str):
    """The text of `!function module.name`; `folder` is that of its YAML, in which the module is looked up."""

    folder: Path


class _Loader(yaml.SafeLoader):
    """Safe YAML that keeps `!function module.name` as a Function."""


def _as_function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Function:
    function = Function(loader.construct_scalar(node))
    function.folder = Path(loader.name).parent  # the name of the open file
    return function


_Loader.add_constructor("!function", _as_function)


def read_tasks(include_path: str | Path) -> dict[str, TaskFile]:
    """{task or group name: TaskFile} of every YAML below `include_path`. Raises yaml.YAMLError, OSError."""
    found = {}
    for path in sorted(p for p in Path(include_path).rglob("*.yaml") if p.is_file()):
        config = read_task(path)
        name = config.get("group") or config.get("task")
        if isinstance(name, str):
            found[name] = TaskFile(path, config)
    return found


def members(name: str, tasks: dict[str, TaskFile]) -> list[str]:
    """The single tasks that `name` (a task, a group or a tag) contains; empty if there is no such name."""
    if name in tasks:
        inside = children(tasks[name])
        return [name] if inside is None else [leaf for child in inside for leaf in members(child, tasks)]
    return [task for task, file in tasks.items() if name in _as_list(file.config.get("tag"))]


def children(group: TaskFile) -> list[str] | None:
    """The names in a group's list, of groups that are written inside it as well; None for a task."""
    listed = group.config.get("task")
    return _names(listed) if isinstance(listed, list) else None


def _names(listed: list) -> list[str]:
    names = []
    for child in listed:
        inside = child.get("task") if isinstance(child, dict) else child
        names += _names(inside) if isinstance(inside, list) else [inside] if isinstance(inside, str) else []
    return names


def task_metrics(task: TaskFile) -> tuple[list[str], bool]:
    """(metrics of a single task as a run records them, without its name; whether its code may add others).

    Source: lm_eval/api/task.py; a metric is appended with each filter but the one named `none`.
    """
    config = task.config
    if "class" in config:  # a task that is written in Python
        return [], True
    listed = config.get("metric_list")
    if listed is None:
        listed = [
            {"metric": name} for name in DEFAULT_METRICS.get(config.get("output_type", "generate_until"), ())
        ]
    # `!function module.name` is reported under the function's name.
    named = [entry.get("metric") for entry in listed if isinstance(entry, dict)]
    metrics = [name.rpartition(".")[2] if isinstance(name, Function) else str(name) for name in named]
    filters = [str(entry.get("name")) for entry in config.get("filter_list") or [] if isinstance(entry, dict)]
    names = [m if f == "none" else f"{m}.{f}" for m in metrics for f in filters or ["none"]]
    return names, "process_results" in config


def missing_data(task: TaskFile) -> list[str]:
    """The local data files of a task that do not exist."""
    files = (task.config.get("dataset_kwargs") or {}).get("data_files")
    return [f for f in leaves(files) if not is_remote(f) and not glob(f)]


def read_task(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """A task YAML merged with the files that it includes, as in lm-eval: its own keys take precedence."""
    if path in seen:
        raise yaml.YAMLError(f"{path}: its includes are circular")
    state = path.stat()
    config = deepcopy(_parsed(path, state.st_mtime_ns, state.st_size))
    if not isinstance(config, dict):
        raise yaml.YAMLError(f"{path}: a task file must be a mapping of keys")
    if kwargs := config.get("dataset_kwargs"):
        kwargs["data_files"] = _absolute(kwargs.get("data_files"), path.parent)
    merged: dict = {}
    for include in _as_list(config.pop("include", None)):
        merged |= read_task((path.parent / include).resolve(), (*seen, path))
    return merged | config


@functools.lru_cache(maxsize=4096)
def _parsed(path: Path, mtime_ns: int, size: int) -> object:
    """The YAML of a file in this state: the recipes of a life name the same tasks, and each is checked."""
    with path.open(encoding="utf-8") as file:
        return yaml.load(file, Loader=_Loader)


def _absolute(files, folder: Path):
    """`files` (text, list or {split: files}) with every relative path made absolute."""
    if isinstance(files, dict):
        return {split: _absolute(value, folder) for split, value in files.items()}
    if isinstance(files, list):
        return [_absolute(value, folder) for value in files]
    if not isinstance(files, str) or is_remote(files) or Path(files).is_absolute():
        return files
    here = str((folder / files).resolve())
    return str(Path(files).resolve()) if not glob(here) and glob(files) else here


def leaves(files) -> list[str]:
    """The paths in `data_files`, which is a text, a list or {split: files}."""
    if isinstance(files, dict):
        files = list(files.values())
    return (
        [leaf for f in files for leaf in leaves(f)] if isinstance(files, list) else [files] if files else []
    )


def is_remote(path: str) -> bool:
    return "://" in path


def _as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]
