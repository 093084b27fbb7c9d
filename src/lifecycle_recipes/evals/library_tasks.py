"""lm-eval's own tasks, found in its installed files. No torch, no lm-eval: its index takes six seconds."""

import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from ..recipe.task_files import TaskFile, children, members, read_task, read_tasks

# Values of dataset_path that are formats of files, not datasets (datasets/packaged_modules).
BUILDERS = {"json", "csv", "parquet", "text", "arrow", "pandas", "xml", "webdataset"}
BUILDERS |= {"imagefolder", "audiofolder", "videofolder"}

# `task: gsm8k`, `group: mmlu`, `"task": "aclue_poetry"`; a group's own list under `task:` is no name.
NAMED = re.compile(
    rb"^[\"']?(?:task|group)[\"']?[ \t]*:[ \t]*[\"']?([^\s\"'#\[]+)[\"']?[ \t]*(?:#.*)?\r?$", re.M
)


def library_tasks(names: Iterable[str]) -> dict[str, TaskFile]:
    """{name: TaskFile} of those `names` that are lm-eval's own tasks or groups, and of the groups' members.

    A name without a file is left out: see `is_library_tag`. So is a file that cannot be read.
    """
    found: dict[str, TaskFile] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found or name not in library_files():
            continue
        try:
            found[name] = TaskFile(library_files()[name], read_task(library_files()[name]))
        except (yaml.YAMLError, OSError, UnicodeDecodeError, TypeError):
            continue
        todo += children(found[name]) or []
    return found


def find_tasks(names: list[str], include_path: str | None) -> dict[str, TaskFile]:
    """The tasks among which lm-eval looks for `names`: those of `include_path`, else its own.

    Raises yaml.YAMLError, OSError, UnicodeDecodeError for a damaged include_path.
    """
    return read_tasks(include_path) if include_path else library_tasks(names)


def task_datasets(names: list[str], include_path: str | None) -> list[tuple[str, str | None]]:
    """(id, configuration) of the Hub's datasets in the YAML of these tasks; [] if that is damaged."""
    try:
        files = find_tasks(names, include_path)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return []
    configs = [files[leaf].config for name in names for leaf in members(name, files)]
    read = [c for c in configs if not c.get("custom_dataset") and "class" not in c]
    found = [(c.get("dataset_path"), c.get("dataset_name")) for c in read]
    return list(dict.fromkeys(pair for pair in found if isinstance(pair[0], str) and pair[0] not in BUILDERS))


@functools.cache
def library_files() -> dict[str, Path]:
    """{task or group name: its YAML} of the installed lm-eval; {} without it. Reads 14,000 files in 0.3 s."""
    found: dict[str, Path] = {}
    for path in _yaml_files():
        for name in NAMED.findall(path.read_bytes()):
            found.setdefault(name.decode("utf-8", "replace"), path)
    return found


@functools.cache
def is_library_tag(name: str) -> bool:
    """Whether some task file contains `name` as a word, as the tag of a set of tasks. Which tasks is not read."""
    word = re.compile(rb"(?<![\w-])" + re.escape(name.encode()) + rb"(?![\w-])")
    return any(b"tag" in text and word.search(text) for text in (p.read_bytes() for p in _yaml_files()))


def _yaml_files() -> list[Path]:
    package = importlib.util.find_spec("lm_eval")
    folders = package.submodule_search_locations if package else []
    return sorted(path for folder in folders for path in Path(folder, "tasks").rglob("*.yaml"))
