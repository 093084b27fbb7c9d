"""The built wheel, in a directory that is no clone: recipes, layouts, templates, schemas and the desk's generator."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from clone import clone
from repository import ROOT

BUNDLED = ("recipes", "accelerate_configs", "deepspeed_configs", "chat_templates", "slurm", "data")
SETS = sorted({file.parent.name for file in (ROOT / "recipes").glob("*/*.yaml")})
# What this machine lacks: the Hub, a login, a GPU, and the runs of earlier stages.
OF_THIS_MACHINE = {"not-cached", "parent-missing", "no-hub-token", "push-offline", "task-not-cached"}
OF_THIS_MACHINE |= {"no-wandb-login", "disk-too-small", "no-bf16-hardware", "missing-package"}
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def run(
    command: list, directory: Path, timeout: float = 300, **variables: str
) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run(
        list(map(str, command)),
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def succeed(*arguments, **options) -> str:
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """What git has: a build writes into its source tree, and takes up what an earlier build left there."""
    parts = ["src", "pyproject.toml", "README.md", "LICENSE", *BUNDLED]
    return clone(tmp_path_factory.mktemp("sources"), *parts)


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory) -> Path:
    into = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    succeed([*pip, "-w", into, "."], sources)
    (file,) = into.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """The directory into which the wheel is installed; its dependencies are those of this environment."""
    into = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "-q"]
    succeed([*pip, "--target", into, wheel], into)
    return into


@pytest.fixture
def lifecycle(site, tmp_path):
    """The installed command, in an empty directory: PYTHONPATH comes before an editable install."""

    def start(*arguments, timeout: float = 300) -> subprocess.CompletedProcess:
        return run([site / "bin/lifecycle", *arguments], tmp_path, timeout, PYTHONPATH=str(site))

    return start


def files_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_what_git_has(sources, wheel):
    """Without recipes/broken and the generated world. A folder that is added needs a line in pyproject.toml."""
    tracked = {
        str(f.relative_to(sources)) for top in BUNDLED for f in (sources / top).rglob("*") if f.is_file()
    }
    expected = {name for name in tracked if not name.startswith("recipes/broken/")}
    prefix = "lifecycle_recipes/bundled/"
    bundled = {name.removeprefix(prefix) for name in files_in(wheel) if name.startswith(prefix)}
    assert bundled == expected and "data/desk/generate.py" in bundled
    schemas = {file.name for file in (ROOT / "src/lifecycle_recipes/recipe/schemas").glob("*.json")}
    assert {f"lifecycle_recipes/recipe/schemas/{name}" for name in schemas} <= files_in(wheel)
    tops = {Path(name).parts[0] for name in files_in(wheel)}
    assert [re.sub("-.*[.]", ".", top) for top in sorted(tops)] == [
        "lifecycle_recipes",
        "lifecycle_recipes.dist-info",
    ]


def test_the_sdist_makes_the_same_wheel(sources, wheel, tmp_path):
    succeed([sys.executable, "-c", BUILD, "build_sdist", tmp_path], sources)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as packed:
        assert not [member.name for member in packed if member.issym() or member.islnk()]
        packed.extractall(tmp_path, filter="data")
    succeed(
        [sys.executable, "-c", BUILD, "build_wheel", tmp_path],
        tmp_path / archive.name.removesuffix(".tar.gz"),
    )
    (again,) = tmp_path.glob("*.whl")
    assert files_in(again) == files_in(wheel)


def test_it_is_the_wheel_that_is_tested(site, tmp_path):
    code = "import lifecycle_recipes.cli as cli, lifecycle_recipes.bundled_files as b; print(cli.__file__, b.BUNDLED)"
    said = succeed([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site)).split()
    assert [Path(path).is_relative_to(site) for path in said] == [True, True]
    assert not [path for path in site.rglob("*") if path.is_symlink()]


def test_the_recipes_of_the_wheel_are_listed_copied_and_checked(lifecycle, tmp_path):
    listed = lifecycle("recipes").stdout
    assert [line.partition(":")[0] for line in listed.splitlines() if line[:1].strip()][:-1] == SETS
    for name in SETS:
        done = lifecycle("recipes", "copy", name)
        assert done.returncode == 0, done.stderr
        if name == "desk":
            command = re.search(r"python (\S+generate.py)$", done.stdout, re.M)[1]
            succeed([sys.executable, command], tmp_path)
    assert (tmp_path / "data/desk/world/manifest.json").is_file()
    done = lifecycle("check", *(f"recipes/{name}" for name in SETS), "--upto", "1", "--json")
    assert {finding["code"] for finding in json.loads(done.stdout)} <= OF_THIS_MACHINE, done.stdout


def test_a_layout_needs_no_clone(lifecycle, tmp_path):
    """Nor does its DeepSpeed file: neither is in the working directory."""
    assert lifecycle("recipes", "copy", "qwen3-8b", "mine").returncode == 0
    done = lifecycle("check", "mine/04-sft.yaml", "--upto", "1", "--layout", "zero3", "--json")
    codes = {finding["code"] for finding in json.loads(done.stdout)}
    assert codes <= OF_THIS_MACHINE | {"layout-gpus"}, done.stdout
    done = lifecycle("check", "mine/04-sft.yaml", "--upto", "1", "--layout", "zero4")
    assert done.returncode == 2 and "[unknown-layout]" in done.stderr and "fsdp2, " in done.stderr
    assert not (tmp_path / "accelerate_configs").exists() and not (tmp_path / "deepspeed_configs").exists()


def test_folders_are_copied_from_the_wheel(lifecycle, tmp_path):
    for name in ("accelerate_configs", "deepspeed_configs", "chat_templates", "slurm"):
        assert lifecycle("recipes", "copy", name).returncode == 0
        copied = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        assert copied == {file.name: file.read_bytes() for file in (ROOT / name).iterdir()} != {}


@pytest.mark.slow
def test_the_desk_begins_without_a_clone(lifecycle, tmp_path):
    """Its world, its curation and its tokenizer, then a step of pretraining with a layout of the package."""
    assert lifecycle("recipes", "copy", "desk").returncode == 0
    succeed([sys.executable, "data/desk/generate.py"], tmp_path)
    for stage in ("01-curate", "02-tokenizer"):
        recipe = f"recipes/desk/{stage}.yaml"
        done = lifecycle("run", recipe, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        done = lifecycle("gate", recipe)
        assert done.returncode == 0 and "gate passed" in done.stdout, done.stdout + done.stderr
    short = [
        "--train.max_steps",
        "2",
        "--train.lr_scheduler_kwargs",
        "null",
        "--train.lr_scheduler_type",
        "constant",
    ]
    short += ["--train.warmup_steps", "0", "--evaluate.limit", "4", "--gate", "[]"]
    done = lifecycle("run", "recipes/desk/03-pretrain.yaml", "--layout", "cpu", *short, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bundled/accelerate_configs/cpu.yaml" in done.stdout
    assert (tmp_path / "runs/desk/03-pretrain/model.safetensors").is_file()
