"""Check an `evaluate` section as far as is possible without the model. No torch.

Stages do this before they train, so that a missing file does not cost an hour of training.
"""

import json
from difflib import get_close_matches
from pathlib import Path

import yaml

from ..data.row_faults import cell_fault
from ..finding import Finding, Refusal
from ..recipe.task_files import members, missing_data, read_tasks
from ..record.parents import hash_weights, is_local
from .config import EvaluateConfig
from .library_tasks import is_library_tag, library_files
from .rubric import try_rubric
from .task_faults import find_in_task


def check_config(config: EvaluateConfig | None, *, produced: tuple[str, ...] = ()) -> None:
    """Raise a Refusal with all errors of `config`: unknown tasks, missing files, missing keys.

    produced: directories that will exist at the evaluation (the run's own output_dir).
    """
    if config is None:
        return
    findings = [*_check_companions(config), *_check_tasks(config)]
    for key in ("prompts", "rubric"):
        path = getattr(config, key)
        if path and not Path(path).is_file():
            findings.append(
                Finding.error(
                    "missing-file", f"the file evaluate.{key} does not exist", "give an existing file", path
                )
            )
    if config.prompts and Path(config.prompts).is_file():
        findings += check_prompts(Path(config.prompts)) or _check_rubric(config)
    for key in ("against", "reward_model"):
        path = getattr(config, key)
        if path and path not in produced and is_local(path) and not hash_weights(path):
            message = f"evaluate.{key} has no saved model"
            findings.append(
                Finding.error("missing-model", message, "train it first, or correct the path", path)
            )
    if findings:
        raise Refusal(*findings)


def _check_companions(config: EvaluateConfig) -> list[Finding]:
    for key in ("against", "reward_model"):
        if getattr(config, f"{key}_revision") and not getattr(config, key):
            message = f"evaluate.{key}_revision has no effect without evaluate.{key}"
            return [
                Finding.error("no-effect", message, f"set evaluate.{key} to a Hub id, or remove this key")
            ]
    needs = [key for key in ("rubric", "reward_model", "against") if getattr(config, key)]
    if needs and not config.prompts:
        message = f"evaluate.{needs[0]} scores replies, but evaluate.prompts is not set"
        return [
            Finding.error(
                "missing-prompts", message, "set evaluate.prompts to a .jsonl file of held-out prompts"
            )
        ]
    if not config.tasks and not config.prompts:
        message = "the evaluate section has nothing to measure"
        return [Finding.error("nothing-to-measure", message, "set evaluate.tasks or evaluate.prompts")]
    return []


def _check_tasks(config: EvaluateConfig) -> list[Finding]:
    if not config.include_path:
        return _check_library_tasks(config.tasks)
    if not Path(config.include_path).is_dir():
        message = "evaluate.include_path is not a directory"
        return [
            Finding.error(
                "missing-tasks", message, "give the directory of the task YAML files", config.include_path
            )
        ]
    try:
        known = read_tasks(config.include_path)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        message = f"cannot read a task file: {' '.join(str(error).split())}"
        return [Finding.error("bad-task", message, "correct the file", config.include_path)]
    findings = []
    for name in config.tasks:
        leaves = members(name, known)
        if not leaves:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0]}?" if near else f"the tasks are {', '.join(known) or '(none)'}"
            findings.append(Finding.error("unknown-task", f"unknown task {name}", fix, config.include_path))
        for leaf in leaves:
            findings += find_in_task(known[leaf])
            for file in missing_data(known[leaf]):
                message = f"task {leaf} reads a file that does not exist: {file}"
                findings.append(
                    Finding.error("missing-file", message, "generate the data first", str(known[leaf].path))
                )
    return findings


def _check_library_tasks(names: list[str]) -> list[Finding]:
    known = library_files()
    unknown = [name for name in names if known and name not in known and not is_library_tag(name)]
    findings = []
    for name in unknown:
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        fix = (
            f"did you mean {near[0]}?" if near else "see `lm-eval ls tasks`; for own tasks, set include_path"
        )
        message = f"lm-eval has no task {name}"
        findings.append(Finding.error("unknown-task", message, fix))
    return findings


def _check_rubric(config: EvaluateConfig) -> list[Finding]:
    if not config.rubric or not Path(config.rubric).is_file():
        return []
    try:
        try_rubric(config.rubric, config.prompts, config.limit)
    except Refusal as refusal:
        return refusal.findings
    return []


def check_prompts(path: Path, key: str = "evaluate.prompts") -> list[Finding]:
    """The first error of the prompts file, in which every line must be an object with a `prompt`."""
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if fault := _prompt_fault(json.loads(line)):
                    fix = 'write {"prompt": "the text, or a list of messages"} on every line'
                    return [Finding.error("bad-row", fault, fix, f"{path}:{number}")]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        if path.suffix != ".jsonl":
            message = f"{key} must be a .jsonl file"
            fix = 'write the prompts as JSON lines: {"prompt": "the text, or a list of messages"}'
            return [Finding.error("unknown-file-type", message, fix, str(path))]
        where = f"{path}:{max(number, 1)}"
        return [
            Finding.error(
                "bad-line", f"this line is not UTF-8 JSON: {error}", "correct or remove the line", where
            )
        ]
    return (
        [] if number else [Finding.error("empty-file", "the file has no prompts", "add prompts", str(path))]
    )


def _prompt_fault(row: object) -> str:
    """Why a row of the prompts file has no prompt that can be answered; empty if it has one."""
    if not isinstance(row, dict):
        return "this row is not an object with a `prompt`"
    if "prompt" not in row:
        return f"this row has no `prompt`; its keys are {', '.join(map(repr, row)) or 'none'}"
    if not row["prompt"]:
        return "the `prompt` of this row is empty"
    if fault := cell_fault("prompt", row["prompt"]):
        return fault[1]
    last = row["prompt"][-1]
    ends_in_reply = isinstance(last, dict) and last["role"] == "assistant"
    return "this `prompt` ends in a reply, so nothing is left to answer" if ends_in_reply else ""
