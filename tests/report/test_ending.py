"""The last three lines of a run: where, what, next."""

import importlib
import json
from pathlib import Path

import pytest
from fake_runs import fake_raw
from repository import ROOT

from lifecycle_recipes.report.ending import ending

CHILD = """stage: sft
model: {{model_name_or_path: {parent}}}
data: {{sources: [{{path: rows.jsonl}}]}}
train: {{output_dir: runs/child}}
"""


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Writes the record and the weights of a finished run; returns its ending, line by line."""
    monkeypatch.chdir(tmp_path)

    def lines(stage="sft", metrics=None, gate=(), files=("model.safetensors",), **fields):
        run = Path("runs/a")
        run.mkdir(parents=True, exist_ok=True)
        for name in files:
            (run / name).write_bytes(b"w" * 6_200_000)
        record = {"status": "done", "stage": stage, "metrics": metrics or {}, "gate": list(gate)}
        (run / "run.json").write_text(json.dumps(record | fields))
        section = {"output_dir": str(run)}
        values = {"evaluate" if stage == "evaluate" else "train": section, "tokenizer": section}
        values["model"] = {"model_name_or_path": "runs/b"}
        return ending(
            fake_raw(run, values, path="recipes/04-a.yaml", stage=stage, gate=list(gate))
        ).splitlines()

    return lines


SIZES = {"parameters": {"trained": 1_537_440, "all": 1_537_440}}
ADAPTER = {"parameters": {"trained": 921_600, "all": 135_400_000}}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (SIZES, "runs/a: 1.5 M parameters, 6.2 MB"),
        (ADAPTER, "runs/a: 921.6 k trained of 135.4 M parameters, 6.2 MB"),
        ({"best": {"step": 12}}, "runs/a: 6.2 MB, the best of its checkpoints: step 12"),
        ({"files": ["model-1.safetensors", "model-2.safetensors"]}, "runs/a: 12.4 MB"),
        (
            {"stage": "tokenizer", "metrics": {"vocab_size": 2000}, "files": ["tokenizer.json"]},
            "runs/a: 2,000 tokens, 6.2 MB",
        ),
        ({"stage": "evaluate", "files": []}, "runs/a/run.json: the measures of runs/b"),
    ],
)
def test_where_it_is_and_what_it_weighs(ended, options, line):
    assert ended(**options)[0] == line


MANY = {"train_loss": 0.94, "steps": 1000, "eval_loss": 0.5642, "perplexity": 1.758, "w_facts.acc": 1.0}


@pytest.mark.parametrize(
    ("metrics", "gate", "line"),
    [
        (MANY, ["w_facts.acc >= 0.9", "eval_loss < 2"], "w_facts.acc 1, eval_loss 0.5642"),
        (MANY, ["eval_loss < parent/eval_loss * 2"], "eval_loss 0.5642"),
        (MANY, ["perplexity > eval_loss + 0.1"], "perplexity 1.758, eval_loss 0.5642"),
        (MANY, ["eval_los < 2"], "eval_los not measured"),
        (MANY, [], "eval_loss 0.5642, perplexity 1.758, train_loss 0.94, w_facts.acc 1"),
        ({"eval_loss": "nan"}, [], "eval_loss nan"),
        ({"odd": 1}, [], "odd 1"),
        ({}, [], "no metrics"),
    ],
)
def test_the_metrics_that_count(ended, metrics, gate, line):
    assert ended(metrics=metrics, gate=gate)[1] == line


@pytest.mark.parametrize("stage", ["sft", "reward", "tokenizer", "evaluate"])
def test_a_gate_comes_next(ended, stage):
    assert ended(stage, gate=["eval_loss < 2"])[2] == "next: lifecycle gate runs/a"


@pytest.mark.parametrize(
    ("stage", "command"),
    [("sft", "chat"), ("pretrain", "chat"), ("reward", "report"), ("tokenizer", "report")],
)
def test_without_a_gate_a_child_or_a_use_comes_next(ended, stage, command):
    Path("recipes").mkdir()
    Path("recipes/03-broken.yaml").write_text("stage: sft\nmodle: {}\n")
    Path("recipes/05-other.yaml").write_text(CHILD.format(parent="runs/other"))
    assert ended(stage)[2] == f"next: lifecycle {command} runs/a"
    Path("recipes/07-child.yaml").write_text(CHILD.format(parent="./runs/a"))
    assert ended(stage)[2] == "next: lifecycle run recipes/07-child.yaml"


def test_a_run_ends_with_the_three_lines(recipe_of, capsys):
    path = Path(recipe_of("dpo"))
    importlib.import_module("lifecycle_recipes.stages.dpo").main([str(path)])
    where, what, then = capsys.readouterr().out.splitlines()[-3:]
    run = path.parent / "run"
    assert where.startswith(f"{run}: 120.6 k parameters, ") and where.endswith(" kB")
    assert what.startswith("eval_loss ") and "eval_rewards/accuracies" in what
    assert then == f"next: lifecycle chat {run}"


def test_the_tokenizer_stage_ends_with_them_too(tmp_path, tiny_texts, capsys):
    from lifecycle_recipes.stages.tokenizer import main

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_texts))
    recipe = tmp_path / "t.yaml"
    recipe.write_text(
        f"stage: tokenizer\ntokenizer: {{vocab_size: 300, output_dir: {tmp_path}/run, "
        f"chat_template: {ROOT}/chat_templates/chatml.jinja}}\ndata: {{sources: [{{path: {tmp_path}/rows.jsonl}}]}}\n"
        "gate: [round_trip == 1]\n"
    )
    main([str(recipe)])
    where, what, then = capsys.readouterr().out.splitlines()
    assert where.startswith(f"{tmp_path}/run: 300 tokens, ") and what == "round_trip 1"
    assert then == f"next: lifecycle gate {tmp_path}/run"


def test_a_refused_run_has_no_ending(recipe_of, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("lifecycle_recipes.stages.sft").main(
            [recipe_of("sft"), "--train.eval_steps", "3"]
        )
    assert "next:" not in capsys.readouterr().out
