"""The evaluate stage: any run directory, its own record; refused where nothing could be measured."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lifecycle_recipes.stages import evaluate


@pytest.fixture()
def here(tmp_path, tiny_model_dir, monkeypatch) -> Path:
    """A working directory with a model, a task, prompts and a rubric."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_dir, "runs/model")
    Path("tasks").mkdir()
    Path("tasks/colours.yaml").write_text(
        "task: colours\n"
        "dataset_path: json\n"
        "dataset_kwargs: {data_files: {test: colours.jsonl}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        "doc_to_text: '{{stem}}'\n"
        "doc_to_choice: [red, green]\n"
        "doc_to_target: answer\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    rows = [{"stem": f"Service {i} is", "answer": i % 2} for i in range(4)]
    Path("tasks/colours.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    Path("prompts.jsonl").write_text(
        '{"prompt": "Which?"}\n{"prompt": [{"role": "user", "content": "Who?"}]}\n'
    )
    Path("rubric.py").write_text("def score(row, reply):\n    return min(len(reply) / 100, 1.0)\n")
    return tmp_path


def write_recipe(*gate: str, **changes) -> str:
    section = {
        "output_dir": "runs/evaluation",
        "tasks": ["colours"],
        "include_path": "tasks",
        "prompts": "prompts.jsonl",
        "rubric": "rubric.py",
        "max_new_tokens": 8,
    } | changes
    recipe = {"stage": "evaluate", "model": {"model_name_or_path": "runs/model"}, "evaluate": section}
    Path("recipe.yaml").write_text(json.dumps(recipe | {"gate": list(gate)}))  # JSON is YAML
    return "recipe.yaml"


def record() -> dict:
    return json.loads(Path("runs/evaluation/run.json").read_text())


def test_a_run_is_measured_into_a_record_of_its_own(here):
    before = {file.name for file in Path("runs/model").iterdir()}
    evaluate.main([write_recipe("colours.acc >= 0", against="runs/model")])
    run = record()
    assert run["status"] == "done" and run["stage"] == "evaluate"
    assert set(run["metrics"]) == {"colours.acc", "rubric", "rubric_win_rate", "rubric_win_rate_lc", "kl"}
    assert run["metrics"]["rubric_win_rate"] == 0.5
    assert [sample["prompt"] for sample in run["samples"]] == [
        "Which?",
        [{"role": "user", "content": "Who?"}],
    ]
    assert run["evaluation"]["chat_template"] is True
    assert set(run["parents"]) == {"model", "against"}
    # The model is as it was, but for the replies kept beside it.
    assert {file.name for file in Path("runs/model").iterdir()} - before == {"replies.json"}


def test_two_evaluations_agree_to_the_last_digit(here):
    evaluate.main([write_recipe()])
    first = record()["metrics"]
    Path("runs/model/replies.json").unlink()
    evaluate.main([write_recipe(), "--replace"])
    assert record()["metrics"] == first


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tasks": ["colors"]}, "unknown-task"),
        ({"prompts": "gone.jsonl"}, "missing-file"),
        ({"tasks": [], "prompts": None, "rubric": None}, "nothing-to-measure"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(here, capsys, changes, code):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([write_recipe(**changes)])
    assert stop.value.code == 2 and code in capsys.readouterr().err
    assert [file.name for file in Path("runs/evaluation").iterdir()] == ["run.json"]
    assert record()["status"].startswith(f"failed: [{code}]")


def test_a_reward_model_is_refused(here, capsys):
    config = json.loads(Path("runs/model/config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    Path("runs/model/config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as stop:
        evaluate.main([write_recipe()])
    assert stop.value.code == 2 and "not-a-language-model" in capsys.readouterr().err
    assert record()["status"].startswith("failed")


def test_the_documented_command_is_quiet(here):
    done = subprocess.run(
        [sys.executable, "-m", "lifecycle_recipes.stages.evaluate", write_recipe()],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": ""},
    )
    assert (done.returncode, done.stderr) == (0, "") and record()["status"] == "done"


def test_importing_the_stage_imports_no_torch():
    script = "import sys, lifecycle_recipes.stages.evaluate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
