"""gate-unknown: every metric of a gate is looked up before the run."""

import json
from pathlib import Path

import pytest
from checked import RECIPE, codes, write

from lifecycle_recipes.doctor import check as doctor

HELD_OUT = ["--data.eval_fraction", "0.25"]
RECORD = {
    "status": "done",
    "identity": "p",
    "metrics": {"eval_loss": 1.5, "perplexity": 4.0, "broken": "nan"},
}


@pytest.fixture
def chain(recipe_here):
    """The sft recipe with a finished parent, and beside it a reward recipe that was not run and a stopped run."""
    Path("parent/run.json").write_text(json.dumps(RECORD))
    reward = RECIPE.replace("stage: sft", "stage: reward").replace("output_dir: run", "output_dir: 05-reward")
    write(reward.replace("data:\n", "data:\n  eval_fraction: 0.5\n"), "reward.yaml")
    Path("stopped").mkdir()
    Path("stopped/run.json").write_text(json.dumps(RECORD | {"status": "stopped"}))


def found(line: str, *overrides: str):
    report = doctor.check("sft.yaml", ["--gate", json.dumps([line]), *overrides], upto=1)
    return [finding for finding in report.findings if finding.code == "gate-unknown"]


@pytest.mark.parametrize(
    "line",
    [
        "train_loss < 2",
        "steps == 2",
        "eval_loss < parent/eval_loss",
        "eval_loss < parent/perplexity * 0.5",
        "eval_loss < 05-reward/pair_accuracy",
        "05-reward/eval_accuracy > 0.5",
    ],
)
def test_what_will_be_measured(chain, line):
    assert found(line, *HELD_OUT) == []


@pytest.mark.parametrize(
    ("line", "message", "fix"),
    [
        ("eval_los < 2", "this recipe does not measure eval_los", "did you mean eval_loss?"),
        ("train_loss < eval_los", "does not measure eval_los", "did you mean eval_loss?"),
        ("pair_accuracy > 0.5", "does not measure pair_accuracy", "a metric of reward runs"),
        ("eval_rewards/margins > 0", "does not measure eval_rewards/margins", "a metric of dpo and kto runs"),
        ("rubric > 0.5", "does not measure rubric", "set evaluate.prompts and evaluate.rubric"),
        (
            "parent/eval_los < 2",
            "the record of parent has no metric eval_los",
            "did you mean parent/eval_loss?",
        ),
        ("parent/broken < 2", "the record of parent has no metric broken", "it has eval_loss, perplexity"),
        ("05-reward/acc > 1", "the recipe reward.yaml has no metric acc", "pair_accuracy"),
        ("nothere/eval_loss < 2", "there is no run nothere", "name `parent`"),
        ("stoped/eval_loss < 2", "there is no run stoped", "did you mean stopped/eval_loss?"),
    ],
)
def test_what_nothing_measures(chain, line, message, fix):
    (finding,) = found(line, *HELD_OUT)
    assert finding.severity == "error" and finding.where == "--gate"
    assert f"`{line}`" in finding.message and message in finding.message and fix in finding.fix


def test_the_path_of_a_run_is_not_its_name(chain):
    (finding,) = found("runs/mine/03-sft/eval_loss < 2", "--train.output_dir", "runs/mine/04-sft")
    assert finding.severity == "error" and finding.fix == "write 03-sft/eval_loss"


def test_held_out_rows_are_needed_for_their_metrics(chain):
    (finding,) = found("eval_loss < 2")
    assert finding.fix == "set data.eval_sources or data.eval_fraction"
    (finding,) = found("eval_los < 2")
    assert finding.fix == "did you mean eval_loss? To measure it, set data.eval_sources or data.eval_fraction"


def test_what_cannot_be_known_is_a_warning(chain):
    (finding,) = found("eval_aux_loss < 2", *HELD_OUT)
    assert finding.severity == "warning" and "only a mixture of experts" in finding.message
    (finding,) = found("eval_aux_loss < 2")
    assert finding.severity == "error"
    (finding,) = found("stopped/eval_loss < 2")
    assert finding.severity == "warning" and "stopped is not finished" in finding.message
    Path("reward.yaml").write_text(Path("reward.yaml").read_text() + "nonsense: 1\n")
    (finding,) = found("05-reward/pair_accuracy > 0.5")
    assert finding.severity == "warning" and "reward.yaml has errors" in finding.message


def test_a_model_from_elsewhere_has_no_metrics(recipe_here):
    (finding,) = found("train_loss < parent/eval_loss")
    assert finding.severity == "error" and "the parent parent has no record" in finding.message


def test_a_missing_parent_is_the_only_finding(recipe_here):
    line = ["--gate", "[train_loss < parent/eval_loss]", "--model.model_name_or_path", "./gone"]
    assert codes("sft.yaml", *line) == [("parent-missing", "error")]


def test_the_line_of_the_file_is_named_and_a_waiver_works(chain):
    write(RECIPE + "gate:\n  - train_loss < 9\n  - train_los < 2\n")
    (finding,) = doctor.check("sft.yaml", upto=1).findings
    assert finding.where == f"sft.yaml:{RECIPE.count(chr(10)) + 3}"
    assert codes("sft.yaml", "--allow", "{gate-unknown: made by a plugin}") == []


def test_metrics_of_tasks(chain):
    task = "output_type: generate_until\ntest_split: test\ndataset_path: json\n"
    task += (
        "dataset_kwargs: {data_files: {test: rows.jsonl}}\nmetric_list: [{metric: kept}, {metric: stops}]\n"
    )
    Path("tasks").mkdir()
    Path("tasks/plain.yaml").write_text("task: plain\n" + task)
    Path("tasks/judge.py").write_text("def results(doc, replies):\n    return {}\n")
    Path("tasks/coded.yaml").write_text("task: coded\nprocess_results: !function judge.results\n" + task)
    given = ["--evaluate", "{tasks: [plain, coded], include_path: tasks}"]
    assert found("plain.kept > coded.stops", *given) == []
    (finding,) = found("plain.acc > 0", *given)
    assert (finding.severity, finding.fix) == ("error", "it measures plain.kept, plain.stops")
    (finding,) = found("coded.kpt > 0", *given)
    assert (finding.severity, finding.fix) == ("error", "did you mean coded.kept?")
    (finding,) = found("coded.length > 0", *given)  # its own code may return it
    assert finding.severity == "warning"
