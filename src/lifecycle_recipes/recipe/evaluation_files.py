"""The evaluation data that the recipes of a life name: what curation tests its documents against. No torch."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ..finding import Refusal
from ..record.parents import rows_below
from .read import RawRecipe, read_recipe, real_path, recipes_in
from .task_files import is_remote, leaves, members, read_tasks


def add_evaluation_files(values: dict[str, Any], recipe_path: str | Path) -> None:
    """Add the evaluation data of the life to `against` of every decontamination step that does not set `life: false`.

    So the files are part of the recipe's values: they identify the run, and checks see them.
    """
    for item in (values.get("curate") or {}).get("steps") or []:
        step = item.get("decontamination")
        if step is None or step.get("life") is False:
            continue
        left = {real_path(file) for path in step.get("leave") or [] for file in _files(path)}
        known = {real_path(file) for path in step.get("against") or [] for file in _files(path)}
        found = [f for f in find_evaluation_files(recipe_path) if real_path(f) not in left | known]
        step["against"] = [*(step.get("against") or []), *found]


def find_evaluation_files(recipe_path: str | Path) -> list[str]:
    """The evaluation data that the recipes in the directory of this one name: each file once.

    These are `evaluate.prompts`, `data.eval_sources` and the files of the tasks in `evaluate.include_path`. Left out
    are data sets of the Hub, files that do not exist, and those in an output_dir, which a stage of this life writes.
    A recipe or task file that cannot be read is skipped here: the check of its own stage refuses it.
    """
    recipes = list(_readable(recipes_in(Path(recipe_path).parent)))
    made = [real_path(directory) for raw in recipes for directory in _output_dirs(raw)]
    found: dict[str, str] = {}
    for raw in recipes:
        for path in _named_files(raw):
            real = Path(real_path(path))
            if real.is_file() and not any(real.is_relative_to(directory) for directory in made):
                found.setdefault(str(real), _short(path))
    return list(found.values())


def _short(path: str) -> str:
    """The path below the working directory, where it is there: those of task files are absolute."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _readable(paths: Iterable[Path]) -> Iterator[RawRecipe]:
    for path in paths:
        try:
            yield read_recipe(path, life=False)
        except Refusal:
            continue


def _output_dirs(raw: RawRecipe) -> list[str]:
    sections = [section for section in raw.values.values() if isinstance(section, dict)]
    return [section["output_dir"] for section in sections if section.get("output_dir")]


def _named_files(raw: RawRecipe) -> Iterator[str]:
    """All files of evaluation data that a recipe names."""
    evaluate = raw.values.get("evaluate") or {}
    if prompts := evaluate.get("prompts"):
        yield prompts
    for source in (raw.values.get("data") or {}).get("eval_sources") or []:
        yield from _files(source["path"])
    yield from _task_files(evaluate)


def _files(path: str) -> list[str]:
    return rows_below(path) or [path]


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
        found for file in files if isinstance(file, str) and not is_remote(file) for found in _files(file)
    ]


def _evaluated(config: dict) -> Any:
    """`data_files` of a task without its training split, if they name their splits. Source: lm_eval/api/task.py."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if not isinstance(files, dict):
        return files
    splits = {str(config.get(key)).partition("[")[0] for key in ("test_split", "validation_split")}
    return {split: file for split, file in files.items() if split in splits} or files
