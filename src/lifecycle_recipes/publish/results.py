"""Measured results in the Hub's two formats: benchmarks in `.eval_results/`, all tasks in `model-index`. No torch.

`.eval_results/*.yaml` feeds the leaderboards of data sets that are registered as benchmarks, so an entry is written
only for a task of lm-eval's own whose data set is one, with the task id that the benchmark's eval.yaml gives to the
same configuration and split, measured on all documents, and only if no other task is a result of the same id. See
https://huggingface.co/docs/hub/eval-results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..evals.library_tasks import BUILDERS, find_tasks, library_files
from ..recipe.task_files import TaskFile, children, members, task_metrics
from ..record.file import exported_forms
from .config import MERGED

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

# Of the numbers of a card: metrics of tasks and of the evaluation, not those of the training.
SCORES = ("rubric", "rubric_win_rate", "rubric_win_rate_lc", "reward", "kl", "pair_accuracy", "bits_per_byte")
BENCHMARK_FILE = "eval.yaml"  # of a data set that is a benchmark
# Keys of a task whose documents are not simply those of its split: mmlu_pro_law takes one subject by `process_docs`.
CHOOSES = ("process_docs", "custom_dataset", "class")


@dataclass(frozen=True)
class TaskResult:
    """One metric of one task or group. data, config, split: the data set as lm-eval loads it.

    data: a Hub id or a format. is_whole: whether the task is lm-eval's own, and asks all documents of the split.
    """

    task: str
    metric: str
    value: float
    data: str
    config: str | None
    split: str | None
    is_whole: bool

    @property
    def is_local(self) -> bool:
        return self.data in BUILDERS


def own_metrics(record: dict[str, Any], form: str | None) -> dict[str, float]:
    """The measured metrics of a model, or of one form of an export, without the name of the form."""
    metrics = record.get("metrics") or {}
    forms = [name for name in exported_forms(record) if name != MERGED]
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    own = {name: value for name, value in numbers.items() if _form_of(name, forms) == form}
    if form:
        return {name.removeprefix(f"{form}."): value for name, value in own.items()}
    return {name: value for name, value in own.items() if "." in name or name in SCORES}


def _form_of(metric: str, forms: list[str]) -> str | None:
    """The longest name that fits: of `pruned-97` and `pruned-97.5`, both begin `pruned-97.5.agreement`."""
    return max((form for form in forms if metric.startswith(f"{form}.")), key=len, default=None)


def task_results(record: dict[str, Any], form: str | None) -> list[TaskResult]:
    """The metrics of the tasks of the evaluate section and of its groups, if their files still tell what they measure.

    A group is among them if all its tasks read one data set.
    """
    config = (record.get("settings") or {}).get("evaluate") or {}
    names = config.get("tasks") or []
    try:
        files = find_tasks(names, config.get("include_path"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return []
    metrics = own_metrics(record, form)
    measured = [*(part for name in names for part in _groups(name, files))]
    measured += [leaf for name in names for leaf in members(name, files)]
    return [
        result
        for task in dict.fromkeys(measured)
        for name, value in _in_order(task, files[task], metrics).items()
        if (result := _result(task, files, name, value))
    ]


def _groups(name: str, files: dict[str, TaskFile]) -> Iterator[str]:
    """`name`, if it is a group, and the groups in it."""
    if name in files and (inside := children(files[name])) is not None:
        yield name
        for child in inside:
            yield from _groups(child, files)


def _in_order(task: str, file: TaskFile, metrics: dict[str, float]) -> dict[str, float]:
    """Metric -> value of a task: those of its file first, in its order."""
    found = {k.removeprefix(f"{task}."): v for k, v in metrics.items() if k.startswith(f"{task}.")}
    first = [name for name in task_metrics(file)[0] if name in found]
    return {name: found[name] for name in dict.fromkeys([*first, *found])}


def _result(task: str, files: dict[str, TaskFile], metric: str, value: float) -> TaskResult | None:
    sources = [_source(files[leaf]) for leaf in members(task, files)]
    data, config, split = (
        (_common(values) for values in zip(*sources, strict=True)) if sources else (None,) * 3
    )
    if not isinstance(data, str):
        return None
    return TaskResult(task, metric, value, data, config, split, _is_whole(task, files[task]))


def _source(file: TaskFile) -> tuple[Any, Any, Any]:
    """Data set, configuration and split of a task, as lm-eval chooses them."""
    split = file.config.get("test_split") or file.config.get("validation_split")
    return file.config.get("dataset_path"), file.config.get("dataset_name"), split


def _common(values: tuple) -> Any:
    """The value, if all are the same."""
    return values[0] if all(value == values[0] for value in values) else None


def _is_whole(task: str, file: TaskFile) -> bool:
    is_own = file.path == library_files().get(task)
    return is_own and children(file) is None and not any(key in file.config for key in CHOOSES)


def model_index(results: list[TaskResult]) -> list[EvalResult] | None:
    """For `ModelCardData(eval_results=...)`. A local task has its format as type, and its name as configuration."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            task_name=result.task,
            dataset_type=result.data,
            dataset_name=f"{result.task} (not on the Hub)" if result.is_local else result.data,
            dataset_config=result.task if result.is_local else result.config,
            dataset_split=result.split,
            metric_type=result.metric,
            metric_name=f"{result.task}.{result.metric}",
            metric_value=result.value,
        )
        for result in results
    ] or None


def benchmark_entries(results: list[TaskResult], record: dict[str, Any]) -> dict[str, EvalResultEntry]:
    """Task -> the first metric of every task that is the one result of a benchmark of the Hub.

    Asks the Hub, while offline its cache.
    """
    from huggingface_hub import EvalResultEntry

    evaluation = record.get("evaluation") or {}
    if evaluation.get("limit") is not None:
        return {}  # part of a benchmark is not its result
    entries = {}
    for task in dict.fromkeys(result.task for result in results):
        first = next(result for result in results if result.task == task)
        if first.is_local or not first.is_whole or not (number := _benchmark_task(first)):
            continue
        version = (record.get("versions") or {}).get("lm_eval", "")
        template = "with" if evaluation.get("chat_template") else "without"
        entries[task] = EvalResultEntry(
            dataset_id=first.data,
            task_id=number,
            value=first.value,
            date=record.get("started"),
            notes=f"lm-eval {version} {task}, {first.metric}, {template} chat template",
        )
    # gsm8k and gsm8k_cot ask the same documents in two ways: neither is the one result of the benchmark.
    times = Counter((entry.dataset_id, entry.task_id) for entry in entries.values())
    return {task: e for task, e in entries.items() if times[e.dataset_id, e.task_id] == 1}


def _benchmark_task(result: TaskResult) -> str | None:
    """The id of the benchmark's task with the same configuration and split; None if there is none, or several."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        file = hf_hub_download(result.data, BENCHMARK_FILE, repo_type="dataset")
        tasks = yaml.safe_load(Path(file).read_text(encoding="utf-8"))["tasks"]
        ids = [
            task["id"]
            for task in tasks
            if task.get("config", "default") == (result.config or "default")
            and task.get("split", result.split) == result.split
        ]
    except (HfHubHTTPError, OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return None  # no benchmark, or none that can be read
    return ids[0] if len(ids) == 1 else None


def results_file(entries: list[EvalResultEntry]) -> str:
    """The text of a file of `.eval_results/`."""
    from huggingface_hub import eval_result_entries_to_yaml

    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
