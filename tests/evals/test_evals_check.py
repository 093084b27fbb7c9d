"""An `evaluate` section and the tasks it names, checked before a model exists."""

import shutil
import subprocess
import sys

import pytest

from lifecycle_recipes.evals.check import check_config
from lifecycle_recipes.evals.config import EvaluateConfig
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.task_files import members, missing_data, read_tasks


def codes(config) -> list[str]:
    with pytest.raises(Refusal) as refusal:
        check_config(config)
    return [finding.code for finding in refusal.value.findings]


def test_a_good_section_passes(desk_config, tiny_model_dir):
    check_config(None)
    check_config(desk_config(tasks=["desk_facts", "desk_wiki"], against=str(tiny_model_dir)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tasks": ["desk_fact"]}, "unknown-task"),
        ({"include_path": "nowhere"}, "missing-tasks"),
        ({"prompts": "nowhere.jsonl"}, "missing-file"),
        ({"rubric": "nowhere.py"}, "missing-file"),
        ({"prompts": None}, "missing-prompts"),
        ({"prompts": None, "rubric": None}, "nothing-to-measure"),
        ({"against": "./nowhere"}, "missing-model"),
        ({"reward_model": "./nowhere"}, "missing-model"),
    ],
)
def test_a_wrong_section_is_refused(desk_config, changes, code):
    assert code in codes(desk_config(**changes))


def test_all_mistakes_are_listed_at_once(desk_config):
    wrong = desk_config(tasks=["nothing"], rubric="nowhere.py", against="./nowhere")
    assert codes(wrong) == ["unknown-task", "missing-file", "missing-model"]


def test_the_nearest_task_is_named(desk_config):
    with pytest.raises(Refusal, match="did you mean desk_facts"):
        check_config(desk_config(tasks=["desk_fact"]))


def test_a_task_without_its_data_is_refused_with_both_paths(small_desk, desk_config, tmp_path):
    shutil.copytree(small_desk, tmp_path / "desk")
    (tmp_path / "desk/world/wiki_heldout.jsonl").unlink()
    config = desk_config(tasks=["desk_wiki"], include_path=str(tmp_path / "desk/tasks"))
    with pytest.raises(Refusal) as refusal:
        check_config(config)
    (finding,) = refusal.value.findings
    assert finding.code == "missing-file" and "world/wiki_heldout.jsonl" in finding.message
    assert finding.where.endswith("desk_wiki.yaml")


def test_a_run_may_name_what_it_will_produce(desk_config):
    check_config(desk_config(against="./runs/later"), produced=("./runs/later",))


@pytest.mark.parametrize(
    ("name", "text", "code", "line", "message"),
    [
        ("p.jsonl", "", "empty-file", "", ""),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": }\n', "bad-line", ":2", ""),
        (
            "p.jsonl",
            '{"id": 1, "question": "a"}\n',
            "bad-row",
            ":1",
            "no `prompt`; its keys are 'id', 'question'",
        ),
        ("p.jsonl", '{"prompt": ""}\n', "bad-row", ":1", "is empty"),
        ("p.jsonl", '{"prompt": 5}\n', "bad-row", ":1", "prompt is int"),
        ("p.jsonl", '{"prompt": ["x"]}\n', "bad-row", ":1", "message 1 is str"),
        ("p.jsonl", '{"prompt": [{"role": "boss", "content": "x"}]}\n', "bad-row", ":1", "the role 'boss'"),
        (
            "p.jsonl",
            '{"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n',
            "bad-row",
            ":1",
            "ends in a reply",
        ),
        ("p.csv", "prompt\nWho?\n", "unknown-file-type", "", "must be a .jsonl file"),
    ],
)
def test_prompts_are_read_before_training(desk_config, tmp_path, name, text, code, line, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(Refusal) as refusal:
        check_config(desk_config(prompts=str(tmp_path / name)))
    (finding,) = refusal.value.findings
    assert finding.code == code and finding.where.endswith(f"{name}{line}") and message in finding.message


def test_what_a_rubric_prints_is_not_on_stdout(desk_config, tmp_path, capsys):
    (tmp_path / "rubric.py").write_text(
        "print('here')\ndef score(row, reply):\n    print('there')\n    return 1"
    )
    check_config(desk_config(rubric=str(tmp_path / "rubric.py")))
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("here\nthere\n")


def test_checking_imports_neither_torch_nor_lm_eval(small_desk):
    script = (
        "import sys; from lifecycle_recipes.evals.check import check_config;"
        "from lifecycle_recipes.evals.config import EvaluateConfig;"
        f"check_config(EvaluateConfig(tasks=['desk_facts'], include_path={str(small_desk / 'tasks')!r}));"
        "print([m for m in ('torch', 'lm_eval', 'datasets', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_task_files_include_group_and_tag(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/common.yaml").write_text(
        "dataset_kwargs: {data_files: {test: rows.jsonl}}\ntag: mine\n"
    )
    (tmp_path / "base/rows.jsonl").write_text("{}\n")
    (tmp_path / "a.yaml").write_text("include: base/common.yaml\ntask: a\nprocess_docs: !function m.f\n")
    (tmp_path / "b.yaml").write_text("task: b\ndataset_kwargs: {data_files: [gone.jsonl, hf://x/y.jsonl]}\n")
    (tmp_path / "g.yaml").write_text("group: g\ntask: [a, {task: b}]\n")
    tasks = read_tasks(tmp_path)
    assert members("g", tasks) == ["a", "b"] and members("mine", tasks) == ["a"] and members("c", tasks) == []
    # Relative to the file that names it, not to the one that includes it.
    assert tasks["a"].config["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "base/rows.jsonl")}
    assert missing_data(tasks["a"]) == [] and missing_data(tasks["b"]) == [str(tmp_path / "gone.jsonl")]


def test_data_files_may_be_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "tasks/a.yaml").write_text("task: a\ndataset_kwargs: {data_files: rows.jsonl}\n")
    monkeypatch.chdir(tmp_path)
    assert missing_data(read_tasks("tasks")["a"]) == []


@pytest.mark.parametrize(
    ("rubric", "code", "line", "message"),
    [
        ('def score(row, reply):\n    return row["nope"]', "rubric-fails", ":2", "KeyError('nope')"),
        ("def score(row, reply):\n    return 1 / len(reply)", "rubric-fails", ":2", "and the reply ''"),
        ('def score(row, reply):\n    return reply.index("Y") / (len(reply) - 4)', "rubric-fails", ":2", ""),
        ("import nothere", "rubric-fails", ":1", "cannot be imported"),
        ("x = 1\ndef score(row, reply) return 1", "rubric-fails", ":2", "cannot be imported"),
        ("def score(row): return 1", "rubric-fails", "", "positional argument"),
        ("import sys\nsys.exit('bye')", "rubric-fails", ":2", "SystemExit('bye')"),
        ("def grade(row, reply): return 1", "no-score", "", "no function score"),
        ("def score(row, reply): return None", "no-score", "", "returned None"),
        ("def score(row, reply): return float('nan')", "no-score", "", "returned nan"),
        ("def score(row, reply): return 7", "no-score", "", "returned 7, not a number from 0 to 1"),
        ("def score(row, reply): return -0.5", "no-score", "", "returned -0.5"),
    ],
)
def test_a_rubric_is_tried_before_training(desk_config, tmp_path, rubric, code, line, message):
    (tmp_path / "rubric.py").write_text(rubric)
    with pytest.raises(Refusal) as refusal:
        check_config(desk_config(rubric=str(tmp_path / "rubric.py")))
    (finding,) = refusal.value.findings
    assert finding.code == code and message in finding.message
    assert finding.where == f"{tmp_path / 'rubric.py'}{line}"


def test_a_rubric_meets_every_set_of_keys_within_the_limit(desk_config, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "kind": "x"}\n{"prompt": "b"}\n')
    (tmp_path / "rubric.py").write_text("def score(row, reply): return float(row['kind'] == reply)")
    given = {"prompts": str(tmp_path / "prompts.jsonl"), "rubric": str(tmp_path / "rubric.py")}
    assert codes(desk_config(**given)) == ["rubric-fails"]
    check_config(desk_config(**given, limit=1))


TASK = "task: t\ntest_split: test\ndataset_path: json\noutput_type: multiple_choice\n"


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        (TASK + "doc_to_txt: a\n", "lm-eval knows no key doc_to_txt", "did you mean doc_to_text?"),
        (TASK.replace("multiple_choice", "multiple_choices"), "output_type cannot be", "multiple_choice"),
        (TASK.replace("dataset_path: json\n", ""), "no dataset_path", "dataset_path: json"),
        (TASK.replace("test_split: test\n", ""), "neither a test_split nor", "test_split: test"),
        (TASK + "process_docs: !function judge.keep\n", "judge.py defines no keep", "did you mean keeps?"),
        (TASK + "process_docs: !function jugde.keeps\n", "there is no file", "write the file"),
        (TASK + "metric_list: [{metric: !function wrong.f}]\n", "expected ':'", "correct the file"),
    ],
)
def test_a_task_is_tried_before_training(desk_config, tmp_path, text, message, fix):
    (tmp_path / "t.yaml").write_text(text)
    (tmp_path / "judge.py").write_text("def keeps(docs):\n    return docs\n")
    (tmp_path / "wrong.py").write_text("def f(x) return x\n")
    with pytest.raises(Refusal) as refusal:
        check_config(desk_config(tasks=["t"], include_path=str(tmp_path)))
    (finding,) = refusal.value.findings
    assert finding.code == "bad-task" and message in finding.message and fix in finding.fix


@pytest.mark.parametrize("function", ["judge.keeps", "judge.made", "os.path.join", "star.anything"])
def test_functions_of_a_task_that_may_exist(desk_config, tmp_path, function):
    (tmp_path / "t.yaml").write_text(TASK + f"process_docs: !function {function}\n")
    (tmp_path / "judge.py").write_text("from os.path import join as made\nif True:\n    keeps = made\n")
    (tmp_path / "star.py").write_text("from judge import *\n")
    check_config(desk_config(tasks=["t"], include_path=str(tmp_path)))


def test_lm_evals_own_tasks_are_known_before_training():
    with pytest.raises(Refusal, match="did you mean hellaswag"):
        check_config(EvaluateConfig(tasks=["hellaswg", "gsm8k", "mmlu", "math_word_problems"]))
