"""Which metrics a recipe will measure: known before the run, so that its gate can be checked. No torch.

The trainers' own names are compared with upstream's source in tests/test_upstream.py.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from ..recipe.pruned_forms import pruned_forms
from ..recipe.task_files import children, members, task_metrics
from .library_tasks import find_tasks, library_files

if TYPE_CHECKING:
    from ..recipe.read import RawRecipe

# Measured by every run of the stage.
ALWAYS = {
    "curate": ("rows_in", "rows_out", "rows_repeated", "held_out_rows", "tokens_out", "bytes_out"),
    "tokenizer": ("bytes_per_token", "unknown_rate", "round_trip", "vocab_size"),
    "pretrain": ("train_loss", "steps"),
    "sft": ("train_loss", "steps"),
    "reward": ("train_loss", "steps"),
    "ppo": ("train_loss", "steps", "train_kl", "train_score_first", "train_score_last"),
    "dpo": ("train_loss", "steps"),
    "kto": ("train_loss", "steps"),
    "evaluate": (),
    "export": (),
}
# Measured on held-out rows; TRL's trainers add theirs to the evaluation of transformers (`_metrics`).
_SIDES = [f"eval_{of}/{side}" for of in ("rewards", "logps", "logits") for side in ("chosen", "rejected")]
HELD_OUT = {
    "pretrain": ("eval_loss", "perplexity", "bits_per_byte"),
    "sft": ("eval_loss", "eval_entropy", "eval_mean_token_accuracy", "eval_aux_loss"),
    "reward": (
        *("eval_loss", "pair_accuracy", "reward_chosen", "reward_rejected", "eval_accuracy", "eval_margin"),
        *("eval_min_reward", "eval_mean_reward", "eval_max_reward"),
    ),
    "dpo": (
        *("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", *_SIDES),
        *("eval_entropy", "eval_mean_token_accuracy", "eval_aux_loss"),
    ),
    "kto": ("eval_loss", "eval_rewards/margins", *_SIDES, "eval_kl", "eval_entropy", "eval_aux_loss"),
}
# Of these, what not every model has.
PERHAPS = {"eval_aux_loss": "only a mixture of experts has an auxiliary loss"}
# Measured by an evaluate section with these keys (evals/measure.py).
EVALUATED = {
    "rubric": ("prompts", "rubric"),
    "rubric_win_rate": ("prompts", "rubric", "against"),
    "rubric_win_rate_lc": ("prompts", "rubric", "against"),
    "reward": ("prompts", "reward_model"),
    "reward_against": ("prompts", "reward_model", "against"),
    "kl": ("prompts", "against"),
}


@dataclass(frozen=True)
class Expected:
    """What a run measures, or has measured.

    needs: metric -> what to set in the recipe so that it is measured; empty if it is.
    open: tasks of which more metrics than these may be measured, since their own code decides.
    perhaps: metric -> why it may be measured, or not.
    beginnings: of names that are taken to be measured, since only the rows tell which there are.
    """

    needs: dict[str, str]
    open: frozenset[str] = frozenset()
    perhaps: dict[str, str] = field(default_factory=dict)
    beginnings: tuple[str, ...] = ()

    def measures(self, name: str) -> bool:
        return self.needs.get(name) == "" or name.startswith(self.beginnings)

    def measured(self) -> list[str]:
        return [name for name, need in self.needs.items() if not need]

    def may_measure(self, name: str) -> bool:
        """Whether `name` is a metric of a task whose metrics are not all known."""
        parts = name.split(".")
        return any(".".join(parts[:i]) in self.open for i in range(1, len(parts)))


def expected_metrics(raw: RawRecipe) -> Expected:
    """The metrics that a run of this recipe measures, and those that it could."""
    data = raw.values.get("data") or {}
    held_out = bool(data.get("eval_sources") or data.get("eval_fraction"))
    needs = dict.fromkeys(ALWAYS[raw.stage], "")
    needs |= dict.fromkeys(
        HELD_OUT.get(raw.stage, ()), "" if held_out else "set data.eval_sources or data.eval_fraction"
    )
    perhaps = {metric: why for metric, why in PERHAPS.items() if needs.get(metric) == ""}
    needs = {metric: need for metric, need in needs.items() if metric not in perhaps}
    if raw.stage == "curate":
        return _of_curation(raw, needs)
    if raw.stage in ("tokenizer", "reward"):  # they have no evaluate section
        return Expected(needs)
    given = raw.values.get("evaluate") or {}
    for metric, keys in EVALUATED.items():
        lacking = [f"evaluate.{key}" for key in keys if not given.get(key)]
        needs[metric] = f"set {' and '.join(lacking)}" if lacking else ""
    names, unknown = _of_tasks(given.get("tasks") or [], given.get("include_path"))
    needs |= dict.fromkeys(names, "")
    return (
        _of_export(raw, Expected(needs, unknown, perhaps))
        if raw.stage == "export"
        else Expected(needs, unknown, perhaps)
    )


def _of_export(raw: RawRecipe, whole: Expected) -> Expected:
    """whole: of the exported model itself. Its forms have the metrics of tasks with their name before."""
    export = raw.values["export"]
    prune = raw.values.get("prune") or {}
    pruned = pruned_forms(prune.get("levels") or [], prune.get("two_of_four") or False)
    forms = [*(export.get("forms") or []), *pruned]
    needs = dict(whole.needs)
    for form in ("merged", *forms):
        needs |= {f"{form}.{name}": "" for name in ("agreement", "same_text", "stopped", "max_difference")}
    needs |= {f"{form}.sparsity": "" for form in pruned}
    evaluated = bool((raw.values.get("evaluate") or {}).get("tasks"))
    for form in forms:
        needs[f"{form}.recovery"] = "" if evaluated else "set evaluate.tasks"
        needs |= {f"{form}.{name}": need for name, need in whole.needs.items() if "." in name}
    return Expected(
        needs, whole.open | {f"{form}.{task}" for form in forms for task in whole.open}, whole.perhaps
    )


def _of_curation(raw: RawRecipe, needs: dict[str, str]) -> Expected:
    """needs: of every run of curation."""
    curate = raw.values["curate"]
    names = [name for step in curate.get("steps") or [] for name, given in step.items() if given is not None]
    labels = [
        name.replace("_", "-") + (f"-{names[: i + 1].count(name)}" if name in names[:i] else "")
        for i, name in enumerate(names)
    ]
    parts = ["read", *labels, *(["held-out"] if curate.get("held_out") else []), "mixture"]
    needs = needs | {f"left_out.{part}": "" for part in parts}
    beginnings = [f"{label}.mean_" for label in labels]
    if "language" in names:
        beginnings.append("share.")
    else:
        lines = " ".join(str(line) for line in [*(curate.get("tests") or []), *raw.gate])
        needs |= dict.fromkeys(re.findall(r"\bshare\.[\w-]+", lines), "add the step `language`")
    return Expected(needs, beginnings=tuple(beginnings))


def recorded_metrics(record: dict) -> Expected:
    """The finite metrics in the record of a run."""
    metrics = record.get("metrics") or {}
    return Expected({name: "" for name, value in metrics.items() if _is_finite(value)})


def stages_that_measure(metric: str) -> list[str]:
    """The stages with a metric of that name, without an evaluate section."""
    return [stage for stage in ALWAYS if metric in (*ALWAYS[stage], *HELD_OUT.get(stage, ()))]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _of_tasks(names: list[str], include_path: str | None) -> tuple[list[str], frozenset[str]]:
    """(`<task>.<metric>` of all tasks, the tasks whose metrics are not all known)."""
    try:
        files = find_tasks(names, include_path)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return [], frozenset(names)
    leaves = [leaf for name in names for leaf in members(name, files)]
    found, unknown = [], set()
    for leaf in dict.fromkeys(leaves):
        metrics, more = task_metrics(files[leaf])
        found += [f"{leaf}.{metric}" for metric in metrics]
        unknown |= {leaf} if more else set()
    if not include_path and _has_tags(names, files):
        unknown |= set(library_files()) - {name for name, file in files.items() if children(file) is not None}
    return found, frozenset(unknown)


def _has_tags(names: list[str], files: dict) -> bool:
    """Whether a name stands for a set of lm-eval's own tasks that is not read here."""
    inside = [child for file in files.values() for child in children(file) or []]
    return any(name not in files for name in (*names, *inside))
