"""A path that does not exist is named with the line of the recipe, as it is written, and with what was meant."""

from pathlib import Path

import pytest
from checked import RECIPE, write

from lifecycle_recipes import cli
from lifecycle_recipes.doctor.check import check
from lifecycle_recipes.life.check import check_all


def found(*overrides: str, recipe: str = RECIPE) -> tuple[str, str, str]:
    """(code, place, message and fix) of the only error."""
    (finding,) = check(write(recipe), list(overrides), 1).errors
    return finding.code, finding.where, f"{finding.message}\n{finding.fix}"


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "message", "fix"),
    [
        ("rows.jsonl", "rwos.jsonl.gz", "missing-file", 6, "rwos.jsonl.gz", "did you mean rows.jsonl?"),
        ("rows.jsonl", "dta/world/a.jsonl", "missing-file", 6, "", "did you mean data/world/a.jsonl?"),
        ("rows.jsonl", "else.jsonl", "missing-file", 6, "", "relative to the current directory, /"),
        ("rows.jsonl", "~/rwos.jsonl", "missing-file", 6, "~/rwos.jsonl (/", "/rows.jsonl?"),
        ("parent", "./parnet", "parent-missing", 3, "./parnet", "did you mean parent?"),
        ("parent", "./first/checkpoint-5", "parent-missing", 3, "", "first has checkpoint-4, checkpoint-40"),
        ("parent", "./zzz", "parent-missing", 3, "", "run the stage that produces it"),
    ],
)
def test_the_nearest_path_is_named(recipe_here, monkeypatch, old, new, code, line, message, fix):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    for folder in ("data/world", "first/checkpoint-4", "first/checkpoint-40"):
        Path(folder).mkdir(parents=True)
    Path("data/world/a.jsonl").write_text("{}\n")
    named, where, text = found(recipe=RECIPE.replace(f": {old}\n", f": {new}\n"))
    assert (named, where) == (code, f"sft.yaml:{line}") and message in text and fix in text


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (
            "against: ./parnet",
            "missing-model",
            "evaluate.against has no saved model: ./parnet\ndid you mean parent?",
        ),
        ("rubric: data/rubrik.py", "missing-file", "data/rubrik.py\ndid you mean data/rubric.py?"),
        ("include_path: dta", "missing-tasks", "dta\ndid you mean data?"),
        ("tasks: [nothing_here]", "unknown-task", "nothing_here"),
        ("prompts: p.csv", "unknown-file-type", "must be a .jsonl file: p.csv"),
    ],
)
def test_paths_of_the_evaluation_have_their_line(recipe_here, line, code, text):
    Path("data").mkdir()
    Path("data/rubric.py").write_text("def score(row, reply):\n    return 0\n")
    Path("p.jsonl").write_text('{"prompt": "a"}\n')
    Path("p.csv").write_text("prompt\na\n")
    named, where, said = found(
        recipe=f"{RECIPE}evaluate:\n  {line}\n" + "  prompts: p.jsonl\n" * ("prompts" not in line)
    )
    assert (named, where) == (code, "sft.yaml:14") and text in said


def test_a_rubric_without_prompts_has_its_line(recipe_here):
    Path("r.py").write_text("def score(row, reply):\n    return 0\n")
    assert found(recipe=f"{RECIPE}evaluate:\n  rubric: r.py\n")[:2] == ("missing-prompts", "sft.yaml:14")


@pytest.mark.parametrize(
    ("parent", "fix"),
    [
        ("./runs/typo/a-stf", "did you mean runs/typo/a-sft?"),
        ("./runs/typo/zebra", "correct the path: no recipe of this command makes it"),
    ],
)
def test_a_parent_that_no_recipe_of_the_life_makes(recipe_here, parent, fix):
    Path("life").mkdir()
    write(RECIPE.replace("output_dir: run", "output_dir: runs/typo/a-sft"), "life/a.yaml")
    child = RECIPE.replace(": parent", f": {parent}").replace("output_dir: run", "output_dir: runs/typo/b")
    write(child, "life/b.yaml")
    reports, _, status = check_all(["life"], [], 1, lambda line: None, lambda raw: None)
    (error,) = reports[1].errors
    assert (status, error.code, error.where, error.fix) == (2, "parent-missing", "life/b.yaml:3", fix)


@pytest.mark.parametrize("command", [["check", "recipes/mine/03-stf.yaml"], ["run", "recipes/mien"]])
def test_a_recipe_that_does_not_exist_has_a_suggestion(recipe_here, capsys, command):
    Path("recipes/mine").mkdir(parents=True)
    write(RECIPE, "recipes/mine/03-sft.yaml")
    with pytest.raises(SystemExit, match="2"):
        cli.main(command)
    assert "fix: did you mean recipes/mine" in capsys.readouterr().err
