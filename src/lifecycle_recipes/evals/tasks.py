"""lm-eval task files as plain YAML: which tasks exist, and which data each reads. No torch, no lm-eval.

lm-eval resolves `data_files` against the working directory, so a task runs only from one directory. Here a
relative path is looked up next to its YAML first, then in the working directory.
"""

from dataclasses import dataclass
from glob import glob
from pathlib import Path

import yaml


@dataclass(frozen=True)
class TaskFile:
    """One task or group: its file and its merged YAML, with functions as text and absolute data_files."""

    path: Path
    config: dict


class _Loader(yaml.SafeLoader):
    """Safe YAML that keeps `!function module.name` as its text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read_tasks(include_path: str | Path) -> dict[str, TaskFile]:
    """{task or group name: TaskFile} of every YAML below `include_path`. Raises yaml.YAMLError, OSError."""
    found = {}
    for path in sorted(p for p in Path(include_path).rglob("*.yaml") if p.is_file()):
        config = _read(path)
        name = config.get("group") or config.get("task")
        if isinstance(name, str):
            found[name] = TaskFile(path, config)
    return found


def members(name: str, tasks: dict[str, TaskFile]) -> list[str]:
    """The single tasks that `name` (a task, a group or a tag) contains; empty if there is no such name."""
    if name in tasks:
        children = tasks[name].config.get("task")
        if not isinstance(children, list):
            return [name]
        names = [child if isinstance(child, str) else child.get("task", "") for child in children]
        return [leaf for child in names for leaf in members(child, tasks)]
    return [task for task, file in tasks.items() if name in _as_list(file.config.get("tag"))]


def missing_data(task: TaskFile) -> list[str]:
    """The local data files of a task that do not exist."""
    files = (task.config.get("dataset_kwargs") or {}).get("data_files")
    return [f for f in _leaves(files) if not _is_remote(f) and not glob(f)]


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """A task YAML merged with the files that it includes, as in lm-eval: its own keys take precedence."""
    if path in seen:
        raise yaml.YAMLError(f"{path}: its includes are circular")
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    if not isinstance(config, dict):
        raise yaml.YAMLError(f"{path}: a task file must be a mapping of keys")
    if kwargs := config.get("dataset_kwargs"):
        kwargs["data_files"] = _absolute(kwargs.get("data_files"), path.parent)
    merged: dict = {}
    for include in _as_list(config.pop("include", None)):
        merged |= _read((path.parent / include).resolve(), (*seen, path))
    return merged | config


def _absolute(files, folder: Path):
    """`files` (text, list or {split: files}) with every relative path made absolute."""
    if isinstance(files, dict):
        return {split: _absolute(value, folder) for split, value in files.items()}
    if isinstance(files, list):
        return [_absolute(value, folder) for value in files]
    if not isinstance(files, str) or _is_remote(files) or Path(files).is_absolute():
        return files
    here = str((folder / files).resolve())
    return str(Path(files).resolve()) if not glob(here) and glob(files) else here


def _leaves(files) -> list[str]:
    if isinstance(files, dict):
        files = list(files.values())
    return (
        [leaf for f in files for leaf in _leaves(f)] if isinstance(files, list) else [files] if files else []
    )


def _is_remote(path: str) -> bool:
    return "://" in path


def _as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]
