"""What the package needs is declared, and what it can do without may be absent."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPE = """stage: sft
model: {model_name_or_path: runs/base}
data: {sources: [{path: rows.jsonl}]}
train: {output_dir: run, report_to: none, max_steps: 1}
"""
# Python runs this at its start: the packages are absent to imports, to find_spec and to importlib.metadata.
HIDE = """
import importlib.machinery, importlib.metadata

HIDDEN = {hidden!r}
finder = importlib.machinery.PathFinder
find_spec, find_distributions = finder.find_spec, finder.find_distributions

def spec(name, *rest):
    return None if name.split(".")[0] in HIDDEN else find_spec(name, *rest)

def distributions(context=importlib.metadata.DistributionFinder.Context()):
    return () if context.name in HIDDEN else find_distributions(context)

finder.find_spec, finder.find_distributions = spec, distributions
"""


def requirements() -> dict[str, Requirement]:
    """What pyproject.toml declares, extras included, by canonical name."""
    declared = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in declared}


def imported() -> dict[str, str]:
    """Third-party module -> a file under src/ that imports it, at its top or later."""
    found = {}
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found |= {name.split(".")[0]: str(file.relative_to(ROOT)) for name in names}
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names}


def test_everything_imported_is_declared():
    packages = importlib.metadata.packages_distributions()
    declared = requirements()
    missing = {
        name: file
        for name, file in imported().items()
        if name != "lifecycle_recipes"
        and not any(canonicalize_name(package) in declared for package in packages.get(name, [name]))
    }
    assert not missing


def test_the_tested_versions_are_within_the_declared_ranges():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    assert not [str(r) for name, r in requirements().items() if not r.specifier.contains(pinned[name])]


@pytest.mark.parametrize("package", ["deepspeed", "ninja", "bitsandbytes"])
def test_a_mac_installs_without_what_is_not_built_for_it(package):
    marker = requirements()[package].marker
    assert not marker.evaluate({"sys_platform": "darwin"}) and marker.evaluate({"sys_platform": "linux"})


@pytest.fixture
def without(tmp_path):
    """lifecycle, in an empty directory and without DeepSpeed and bitsandbytes: (status, stdout, stderr)."""
    (tmp_path / "site").mkdir()
    code = HIDE.format(hidden=("deepspeed", "bitsandbytes", "ninja"))
    (tmp_path / "site/sitecustomize.py").write_text(code)
    path = f"{tmp_path / 'site'}{os.pathsep}{ROOT / 'src'}"
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": path}, "timeout": 200}

    def lifecycle(*command: str) -> subprocess.CompletedProcess:
        program = [sys.executable, "-m", "lifecycle_recipes.cli", *command]
        return subprocess.run(program, capture_output=True, text=True, **options)

    return lifecycle


def test_check_needs_neither_deepspeed_nor_bitsandbytes(without, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "a"}]}) + "\n")
    (tmp_path / "runs/base").mkdir(parents=True)
    (tmp_path / "runs/base/config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "runs/base/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "sft.yaml").write_text(RECIPE)
    done = without("check", "sft.yaml", "--upto", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "sft.yaml").write_text(RECIPE.replace("runs/base}", "runs/base, load_in_4bit: true}"))
    done = without("check", "sft.yaml", "--upto", "1")
    assert done.returncode == 2 and "missing-package" in done.stdout + done.stderr


def test_gate_and_report_need_neither(without, tmp_path):
    (tmp_path / "run").mkdir()
    record = {"status": "done", "stage": "sft", "metrics": {"kl": 0.1}, "gate": ["kl < 0.2"]}
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    done = without("gate", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    done = without("report", "run")
    assert done.returncode == 0 and "| pass |" in done.stdout, done.stdout + done.stderr
