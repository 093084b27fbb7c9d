"""Which metrics a recipe will measure: against upstream's source, and against runs."""

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
from fake_runs import fake_raw

from lifecycle_recipes.evals.expected import ALWAYS, HELD_OUT, expected_metrics
from lifecycle_recipes.evals.library_tasks import is_library_tag, library_files, library_tasks
from lifecycle_recipes.recipe.read import read_recipe
from lifecycle_recipes.recipe.schema import stage_names
from lifecycle_recipes.recipe.task_files import DEFAULT_METRICS, members, task_metrics

# Counts of tokens are no results (training/train.py, NOT_A_RESULT).
COUNTS = {"eval_num_tokens"}
OWN = {"eval_loss", "pair_accuracy", "reward_chosen", "reward_rejected"}


def test_every_stage_is_known():
    assert set(ALWAYS) == set(stage_names()) and set(HELD_OUT) < set(ALWAYS)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "kto"])
def test_the_names_are_those_of_upstreams_trainers(stage):
    source = inspect.getsource(importlib.import_module(f"trl.trainer.{stage}_trainer"))
    names = {f"eval_{name}" for name in re.findall(r"_metrics\[mode\]\[\"([^\"]+)\"\]", source)}
    assert set(HELD_OUT[stage]) - OWN == names - COUNTS


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "kto"])
def test_a_run_measures_what_was_expected(recipe_of, stage):
    path = recipe_of(stage)
    given = ["--allow", "{eval-overlap: only names are compared}"]
    importlib.import_module(f"lifecycle_recipes.stages.{stage}").main([str(path), *given])
    raw = read_recipe(path, given)
    measured = set(json.loads((Path(raw.output_dir) / "run.json").read_text())["metrics"])
    expected = set(expected_metrics(raw).measured())
    assert measured <= expected
    # Whether there are both kinds of rows depends on a batch.
    assert not {name for name in expected - measured if "/" not in name}


@pytest.mark.parametrize(
    ("evaluate", "measured"),
    [
        ({}, []),
        ({"prompts": "p"}, []),
        ({"prompts": "p", "rubric": "r"}, ["rubric"]),
        ({"prompts": "p", "against": "m"}, ["kl"]),
        (
            {"prompts": "p", "rubric": "r", "against": "m"},
            ["rubric", "rubric_win_rate", "rubric_win_rate_lc", "kl"],
        ),
        (
            {"prompts": "p", "reward_model": "m", "against": "m"},
            ["reward", "reward_against", "kl"],
        ),
        ({"tasks": ["arc_easy"]}, ["arc_easy.acc", "arc_easy.acc_norm"]),
    ],
)
def test_an_evaluate_section_measures_what_its_keys_ask_for(tmp_path, evaluate, measured):
    values = {"evaluate": {"output_dir": str(tmp_path)} | evaluate}
    assert expected_metrics(fake_raw(tmp_path, values, stage="evaluate")).measured() == measured


@pytest.mark.parametrize(
    ("name", "metrics", "more"),
    [
        ("gsm8k", ["exact_match.strict-match", "exact_match.flexible-extract"], False),
        ("hellaswag", ["acc", "acc_norm"], False),
        ("ifeval", None, True),  # process_results
    ],
)
def test_metrics_of_lm_evals_own_tasks(name, metrics, more):
    found, open_ended = task_metrics(library_tasks([name])[name])
    assert open_ended is more and (metrics is None or found == metrics)


def test_defaults_are_those_of_lm_eval():
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    assert {kind: tuple(names) for kind, names in DEFAULT_METRIC_REGISTRY.items()} == DEFAULT_METRICS


def test_lm_evals_own_tasks_groups_and_tags_are_found_without_it():
    assert {"gsm8k", "mmlu", "leaderboard", "aclue_ancient_medical"} <= set(library_files())
    assert "leaderboard_musr_object_placements" in members("leaderboard", library_tasks(["leaderboard"]))
    assert is_library_tag("math_word_problems") and not is_library_tag("math_word_problem_s")


def test_tasks_behind_a_tag_are_open(tmp_path):
    """Which tasks a tag stands for is not read: their metrics are neither promised nor denied."""
    values = {"evaluate": {"output_dir": str(tmp_path), "tasks": ["mmlu"]}}
    expected = expected_metrics(fake_raw(tmp_path, values, stage="evaluate"))
    assert expected.may_measure("mmlu_anatomy.acc") and not expected.may_measure("mmlu.acc")
    assert not expected.may_measure("eval_loss")
