"""`lifecycle recipes`: what it lists, and a copy that works where the user stands and overwrites nothing."""

import re
from pathlib import Path

import pytest
from repository import ROOT

from lifecycle_recipes import cli
from lifecycle_recipes.life.bundled_recipes import recipe_sets
from lifecycle_recipes.recipe.paths import paths
from lifecycle_recipes.recipe.read import read_recipe

SETS = sorted({file.parent.name for file in (ROOT / "recipes").glob("*/*.yaml")})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory, which is no clone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lifecycle(capsys, *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(["recipes", *argv])
    said = capsys.readouterr()
    return end.value.code or 0, said.out, said.err


def contents(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


def test_every_set_is_listed_with_its_models_hardware_and_stages(capsys):
    found = {recipes.name: recipes for recipes in recipe_sets()}
    assert sorted(found) == SETS
    assert found["desk"].models == ["llama, random weights"]
    assert found["smollm2-1.7b"].models == ["HuggingFaceTB/SmolLM2-1.7B"]
    assert found["smollm2-1.7b"].layouts == {
        "one_gpu, 24 GB or more": ["sft-lora"],
        "one_gpu, 16 GB or more": ["sft-qlora"],
        "ddp, 8 GPUs of 80 GB": ["sft", "reward", "dpo", "kto"],
        "zero2, 8 GPUs of 80 GB": ["ppo"],
    }
    for name, recipes in found.items():
        stages = [
            Path(file).stem.partition("-")[2] for file in sorted((ROOT / "recipes" / name).glob("*.yaml"))
        ]
        assert sorted(sum(recipes.layouts.values(), [])) == sorted(stages)
    status, out, _ = lifecycle(capsys)
    assert status == 0 and "\n  zero2, 8 GPUs of 80 GB  ppo\n" in out


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("directory", ["", "my work/mine"])
def test_a_copy_works_from_the_working_directory(capsys, here, name, directory):
    status, out, _ = lifecycle(capsys, "copy", name, *filter(None, [directory]))
    assert status == 0
    copied = here / (directory or f"recipes/{name}")
    originals = sorted((ROOT / "recipes" / name).glob("*.yaml"))
    assert [file.name for file in sorted(copied.glob("*.yaml"))] == [file.name for file in originals]
    for original in originals:
        file = copied / original.name
        text, old = file.read_text(), original.read_text()
        schema = re.search(r"\$schema=(\S+)$", text, re.M)[1]
        assert (copied / schema).is_file(), "an editor finds the schema"
        shown = f"'{directory}/{file.name}'" if directory else f"recipes/{name}/{file.name}"
        assert f"Run: lifecycle run {shown}" in text.splitlines()[0]
        assert text.splitlines()[2:] == old.splitlines()[2:], "nothing else is changed"
        values = read_recipe(file.relative_to(here), life=False).values
        for _, mapping, key in paths(values):
            if (ROOT / mapping[key]).exists() and not mapping[key].startswith(("runs", "data/desk/world")):
                assert Path(mapping[key]).exists(), mapping[key]
    assert f"lifecycle check {directory and repr(directory) or f'recipes/{name}'} --upto 1" in out
    assert not list(here.rglob("*.part-*")) and not (here / "data/desk/world").exists()


def test_the_generator_comes_with_the_desk_and_is_the_first_command(capsys, here):
    _, out, _ = lifecycle(capsys, "copy", "desk")
    assert out.partition("next:\n")[2].splitlines()[0].split() == ["python", "data/desk/generate.py"]
    for name in ("data/desk/rubric.py", "data/desk/tasks/judge.py", "chat_templates/chatml.jinja"):
        assert (here / name).read_bytes() == (ROOT / name).read_bytes()
    assert not list(here.rglob("__pycache__"))


def test_a_second_set_shares_the_files_of_the_first(capsys, here):
    assert lifecycle(capsys, "copy", "smollm2-135m")[0] == 0
    _, out, _ = lifecycle(capsys, "copy", "desk")
    assert (here / "recipes/desk/01-curate.yaml").is_file() and "chatml.jinja" not in out


@pytest.mark.parametrize(
    "occupied", ["recipes/desk/04-sft.yaml", "recipes/desk", "chat_templates/chatml.jinja"]
)
def test_nothing_is_overwritten(capsys, here, occupied):
    (here / occupied).parent.mkdir(parents=True)
    (here / occupied).write_text("mine")
    status, _, err = lifecycle(capsys, "copy", "desk")
    named = occupied if "jinja" in occupied else "recipes/desk"
    assert status == 2 and f"error [copy-exists] {named}:" in err
    assert contents(here) == {occupied: b"mine"}


def test_a_second_copy_and_one_into_the_working_directory_are_refused(capsys, here):
    assert "[copy-exists] .:" in lifecycle(capsys, "copy", "desk", ".")[2] and not contents(here)
    (here / "recipes/desk").mkdir(parents=True)  # an empty directory is no obstacle
    assert lifecycle(capsys, "copy", "desk")[0] == 0
    (here / "recipes/desk/04-sft.yaml").write_text("edited")
    before = contents(here)
    status, _, err = lifecycle(capsys, "copy", "desk")
    assert status == 2 and err.count("error [") == 1 and contents(here) == before


def test_a_copy_that_fails_leaves_nothing(capsys, here):
    (here / "data").write_text("a file where a directory is needed")
    status, _, err = lifecycle(capsys, "copy", "desk")
    assert status == 2 and "error [copy-unwritable] data" in err and "Traceback" not in err
    assert list(contents(here)) == ["data"]


def test_an_unknown_name_lists_those_that_exist(capsys, here):
    status, _, err = lifecycle(capsys, "copy", "broken")
    assert status == 2 and "error [unknown-recipes]" in err and ", ".join(SETS) in err
    assert not contents(here)


def test_a_folder_of_layouts_is_copied_and_not_overwritten(capsys, here):
    assert lifecycle(capsys, "copy", "accelerate_configs", "layouts")[0] == 0
    assert set(contents(here / "layouts")) == {file.name for file in (ROOT / "accelerate_configs").iterdir()}
    assert "[copy-exists] layouts:" in lifecycle(capsys, "copy", "accelerate_configs", "layouts")[2]
