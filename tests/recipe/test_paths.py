"""Paths of a recipe: `~` is expanded once for everybody, variables are refused, the rest is left as written."""

import os

import pytest
from recipe_text import SFT

from lifecycle_recipes.doctor.recipe_level.files import find_in_files
from lifecycle_recipes.doctor.recipe_level.paths import find_bad_paths
from lifecycle_recipes.recipe.paths import KEYS, paths
from lifecycle_recipes.recipe.read import load_recipe, read_recipe
from lifecycle_recipes.stages.sft import SFTRecipe

EVALUATE = (
    "evaluate: {include_path: @/tasks, prompts: @/p.jsonl, rubric: @/r.py, against: @/a, reward_model: @/m}\n"
)
EVERY_PATH = {
    "sft": SFT.replace("runs", "@").replace("a.jsonl", "@/a.jsonl")
    + "  chat_template_path: @/t.jinja\n"
    + EVALUATE,
    "ppo": "stage: ppo\nmodel: {model_name_or_path: @/a}\nreward: {model_name_or_path: @/b}\n"
    "value: {model_name_or_path: @/c}\ndata: {sources: [{path: @/d}], eval_sources: [{path: @/e}]}\n"
    "train: {output_dir: @/f}\n",
    "pretrain": "stage: pretrain\ntext: {block_size: 8}\narchitecture: {model_type: llama, tokenizer: @/a}\n"
    "data: {sources: [{path: @/d}]}\ntrain: {output_dir: @/f}\n",
    "tokenizer": "stage: tokenizer\ntokenizer: {vocab_size: 300, output_dir: @/a, chat_template: @/t.jinja, "
    "extend: @/b, resize_model: @/c}\ndata: {sources: [{path: @/d}]}\n",
    "export": """stage: export
model: {model_name_or_path: @/a, average: [{path: @/b}], adapters: [{path: @/c}]}
export: {output_dir: @/d, prompts: @/e, calibration: @/f}
""",
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe into an empty current directory, whose `home` is the home directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def write(text: str) -> str:
        (tmp_path / "recipe.yaml").write_text(text)
        return "recipe.yaml"

    return write


@pytest.mark.parametrize("stage", EVERY_PATH)
def test_a_home_directory_is_expanded_in_every_path(recipe, tmp_path, stage):
    raw = read_recipe(recipe(EVERY_PATH[stage].replace("@", "~/x")))
    found = [mapping[key] for _, mapping, key in paths(raw.values)]
    assert len(found) == EVERY_PATH[stage].count("@")
    assert all(path.startswith(f"{tmp_path}/home/x/") for path in found)


@pytest.mark.parametrize("stage", EVERY_PATH)
@pytest.mark.parametrize("place", ["runs", "./runs", "../up", "/abs", "with space", "a~b"])
def test_other_paths_stay_as_they_are_written(recipe, stage, place):
    """A run has the same identity wherever the repository is."""
    raw = read_recipe(recipe(EVERY_PATH[stage].replace("@", place)))
    assert all(mapping[key].startswith(place + "/") for _, mapping, key in paths(raw.values))
    assert find_bad_paths(raw) == []


def test_the_table_covers_every_key_that_a_stage_has(recipe):
    named = {name.split("[")[0] for text in EVERY_PATH.values() for name, *_ in paths(_values(recipe, text))}
    assert {f"{section}.{key}" for section, keys in KEYS.items() for key in keys} - named == {
        "evaluate.output_dir",  # of the evaluate stage alone
        *("curate.output_dir", "curate.tokenizer"),  # of the curate stage alone
    }


def _values(recipe, text: str) -> dict:
    return read_recipe(recipe(text.replace("@", "x"))).values


@pytest.mark.model
def test_upstream_and_the_record_use_the_same_directory(recipe, tmp_path):
    built = load_recipe(SFTRecipe, [recipe(SFT.replace("runs/out", "~/out"))])
    assert built.train.output_dir == built.raw.output_dir == str(tmp_path / "home/out")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("$HOME/out", "$HOME is not expanded"),
        ("${HOME}/out", "${HOME} is not expanded"),
        ("runs/$USER", "$USER is not expanded"),
        ("~nobody-of-that-name/out", "~nobody-of-that-name is no user's home directory"),
        ("' '", "it is empty"),
        ('"a\\0b"', "it contains a null character"),
    ],
)
def test_what_only_a_shell_could_read_is_refused_with_its_line(recipe, path, problem):
    raw = read_recipe(recipe(SFT.replace("runs/out", path)))
    (finding,) = find_bad_paths(raw)
    assert (finding.code, finding.where) == ("bad-path", "recipe.yaml:8")
    assert problem in finding.message and finding.fix


def test_the_line_of_a_source_is_named(recipe):
    (finding,) = find_bad_paths(read_recipe(recipe(SFT.replace("a.jsonl", "$DATA/a.jsonl"))))
    assert finding.where == "recipe.yaml:6" and "data.sources[0].path" in finding.message


def test_a_file_may_have_such_a_name(recipe, tmp_path):
    (tmp_path / "$cash.jsonl").write_text("{}\n")
    assert find_bad_paths(read_recipe(recipe(SFT.replace("a.jsonl", "$cash.jsonl")))) == []


def test_data_behind_spaces_and_symlinks_is_found(recipe, tmp_path):
    (tmp_path / "real dir").mkdir()
    (tmp_path / "real dir/rows of mine.jsonl").write_text('{"messages": []}\n')
    os.symlink("real dir", tmp_path / "link")
    for path in ("real dir/rows of mine.jsonl", "link/rows of mine.jsonl"):
        raw = read_recipe(recipe(SFT.replace("a.jsonl", path)))
        assert {f.code for f in find_in_files(raw)} <= {"parent-missing"}


DEFAULT_TEMPLATE = (
    "stage: tokenizer\ntokenizer: {vocab_size: 300, output_dir: out}\ndata: {sources: [{path: w.txt}]}\n"
)


def test_the_default_template_is_found_outside_the_repository(recipe, tmp_path):
    (tmp_path / "w.txt").write_text("text\n")
    assert find_in_files(read_recipe(recipe(DEFAULT_TEMPLATE))) == []


def test_only_the_default_template_comes_with_the_package(recipe, tmp_path):
    (tmp_path / "w.txt").write_text("text\n")
    other = DEFAULT_TEMPLATE.replace("output_dir", "chat_template: chat_templates/qwen3.jinja, output_dir")
    (finding,) = find_in_files(read_recipe(recipe(other)))
    assert (finding.code, finding.where) == ("missing-file", "recipe.yaml:2")
    assert "write `chat_template:`" in finding.fix
