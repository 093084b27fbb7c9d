"""Measured results in the Hub's two formats: benchmarks in `.eval_results/`, all tasks in `model-index`. No torch.

`.eval_results/*.yaml` feeds the leaderboards of data sets that are registered as benchmarks, so an entry is written
only for a task of lm-eval's own whose data set is one, with the task id that the benchmark's eval.yaml gives to the
same configuration and split, measured on all documents. See https://huggingface.co/docs/hub/eval-results.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..evals.library_tasks import BUILDERS, find_tasks
from ..recipe.task_files import TaskFile, members, task_metrics
from .config import MERGED

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

# Of the numbers of a card: metrics of tasks and of the evaluation, not those of the training.
SCORES = ("rubric", "rubric_win_rate", "rubric_win_rate_lc", "reward", "kl", "pair_accuracy", "bits_per_byte")
BENCHMARK_FILE = "eval.yaml"  # of a data set that is a benchmark


@dataclass(frozen=True)
class TaskResult:
    """One metric of one task. data, config, split: the data set as lm-eval loads it; data: a Hub id or a format."""

    task: str
    metric: str
    value: float
    data: str
    config: str | None
    split: str | None

    @property
    def is_local(self) -> bool:
        return self.data in BUILDERS


def own_metrics(record: dict[str, Any], form: str | None) -> dict[str, float]:
    """The measured metrics of a model, or of one form of an export, without the name of the form."""
    metrics, forms = record.get("metrics") or {}, (record.get("export") or {}).get("parity") or {}
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    if form:
        return {k.removeprefix(f"{form}."): v for k, v in numbers.items() if k.startswith(f"{form}.")}
    others = tuple(f"{name}." for name in forms if name != MERGED)
    return {k: v for k, v in numbers.items() if ("." in k or k in SCORES) and not k.startswith(others)}


def task_results(record: dict[str, Any], form: str | None) -> list[TaskResult]:
    """The metrics of the tasks of the evaluate section, if their files still tell what they measure."""
    config = (record.get("settings") or {}).get("evaluate") or {}
    names = config.get("tasks") or []
    try:
        files = find_tasks(names, config.get("include_path"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return []
    metrics = own_metrics(record, form)
    leaves = dict.fromkeys(leaf for name in names for leaf in members(name, files))
    return [
        result
        for task in leaves
        for name, value in _in_order(task, files[task], metrics).items()
        if (result := _result(task, files[task], name, value))
    ]


def _in_order(task: str, file: TaskFile, metrics: dict[str, float]) -> dict[str, float]:
    """Metric -> value of a task: those of its file first, in its order."""
    found = {k.removeprefix(f"{task}."): v for k, v in metrics.items() if k.startswith(f"{task}.")}
    first = [name for name in task_metrics(file)[0] if name in found]
    return {name: found[name] for name in dict.fromkeys([*first, *found])}


def _result(task: str, file: TaskFile, metric: str, value: float) -> TaskResult | None:
    data, config = file.config.get("dataset_path"), file.config.get("dataset_name")
    if not isinstance(data, str):
        return None
    split = file.config.get("test_split") or file.config.get("validation_split")  # as lm-eval chooses
    return TaskResult(task, metric, value, data, config, split)


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
    """Task -> the first metric of every task that is a benchmark of the Hub. Asks the Hub, while offline its cache."""
    from huggingface_hub import EvalResultEntry

    evaluation = record.get("evaluation") or {}
    if evaluation.get("limit") is not None:
        return {}  # part of a benchmark is not its result
    entries = {}
    for task in dict.fromkeys(result.task for result in results):
        first = next(result for result in results if result.task == task)
        if first.is_local or not (number := _benchmark_task(first)):
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
    return entries


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
