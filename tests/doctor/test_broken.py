"""recipes/broken: every failure the project can name has a recipe, and is named as its first line says."""

import ast
import importlib.util
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from lifecycle_recipes import cli
from lifecycle_recipes.data.config import Source
from lifecycle_recipes.data.sources import read_hub
from lifecycle_recipes.doctor.codes import CODES
from lifecycle_recipes.doctor.recipe_level import hub
from lifecycle_recipes.doctor.recipe_level.hub import find_in_hub
from lifecycle_recipes.doctor.recipe_level.machine import find_in_machine
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.overrides import split_arguments
from lifecycle_recipes.recipe.read import RawRecipe
from lifecycle_recipes.recipe.schema import load_schema

BROKEN = ROOT / "recipes/broken"


def load_runner():
    """recipes/broken/run.py: a script beside the recipes, no package."""
    spec = importlib.util.spec_from_file_location("run_broken", BROKEN / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_broken"] = module
    spec.loader.exec_module(module)
    return module


runner = load_runner()
ALL = runner.find()
RECIPES = [broken for broken in ALL if runner.can_be_shown(broken)]
CURED = [broken for broken in RECIPES if broken.cure]
# Why no program can apply the cure of these recipes: what it is instead.
NO_CURE = {
    "it depends on the Hub": "not-cached push-offline task-not-cached",
    "it depends on what is installed": "fp8-unsupported",
    "several machines": "layout-machines",
    "another process must end": "output-dir-busy output-dir-other-host",
    "nothing to do: the run skips the checkpoint": "checkpoint-incomplete",
    "a stage must be run again": "bad-record base-differs parent-changed parent-dropped parent-unfinished "
    "template-changed tokenizer-differs",
}
# Its message is upstream's, in upstream's words.
NOT_NAMED = {"trainer-refused"}
# What no recipe can show: why, and where it is tested.
BY_NO_RECIPE = {
    "batch-differs": "needs several GPUs in one process; recipe/test_batch_size.py",
    "books-unbalanced": "no recipe loses a row: a guard; curation/test_books.py",
    "cache-entry-damaged": "what happens to files after they were written; data/test_cache_entries.py",
    "cache-unusable": "depends on the disk; data/test_cache_entries.py",
    "calibration-failed": "needs GPTQModel, and a model that it cannot fit; publish/test_forms.py",
    "check-failed": "an error of the check itself: a guard; doctor/test_check.py",
    "context-full": "a conversation with `lifecycle chat`; serving/test_chat.py",
    "copy-exists": "an argument of `lifecycle recipes copy`; life/test_bundled_recipes.py",
    "copy-unwritable": "`lifecycle recipes copy`; life/test_bundled_recipes.py",
    "disk-full": "needs a full disk; training/test_training.py",
    "draft-differs": "an argument of `lifecycle serve`; serving/test_server.py",
    "export-differs": "no recipe exports another model: a guard; publish/test_export.py",
    "export-unloadable": "no recipe exports what cannot be loaded: a guard; publish/test_export.py",
    "extension-differs": "no tokenizer or model does this: a guard; stages/test_tokenizer_extension.py",
    "gate-failed": "an argument of `lifecycle push`; publish/test_push.py",
    "license-unknown": "an argument of `lifecycle push`; publish/test_push.py",
    "push-failed": "needs the Hub; publish/test_push.py",
    "push-local-base": "an argument of `lifecycle push`; publish/test_push.py",
    "repo-public": "needs the Hub; publish/test_push.py",
    "tag-exists": "needs the Hub; publish/test_push.py",
    "layout-attention": "upstream refuses most of these itself: a guard; layouts/test_layout.py",
    "layout-device": "needs a launch without lifecycle; layouts/test_layout.py",
    "layout-not-sharded": "needs another trainer than the stages build: a guard; layouts/test_layout.py",
    "layout-parallel": "needs several GPUs; layouts/test_layout.py",
    "layout-precision": "needs a launch without lifecycle; layouts/test_layout.py",
    "machines-differ": "needs several machines; data/test_cache_ranks.py",
    "missing-revision": "needs a cache with another revision; doctor/test_broken.py",
    "needs-static": "`lifecycle serve`; serving/test_server.py",
    "no-hub-token": "depends on who is logged in; doctor/test_broken.py",
    "no-ray": "needs Ray, and no cluster; curation/test_executors.py",
    "no-runs": "an argument of `lifecycle report`; report/test_report.py",
    "no-schema": "needs other versions of upstream; doctor/test_broken.py",
    "no-slurm": "depends on what is installed; curation/test_executors.py",
    "no-wandb-login": "depends on who is logged in; doctor/test_check_machine.py",
    "nothing-saved": "needs FSDP; training/test_training.py",
    "nothing-trainable": "no recipe freezes every weight: a guard against upstream; doctor/test_built.py",
    "output-dir-shared": "needs two recipes; life/test_graph.py",
    "parent-cycle": "needs two recipes; life/test_graph.py",
    "port-in-use": "`lifecycle serve`; serving/test_server.py",
    "record-not-seen": "needs several nodes; record/test_record.py",
    "record-unwritable": "needs a full disk; record/test_record.py",
    "recovery-low": "needs a model that has learnt something; publish/test_export.py",
    "reference-differs": "the stages make the reference themselves: a guard; doctor/test_built_chain.py",
    "resume-layout-differs": "needs a stopped run on two processes; layouts/test_layout_resume.py",
    "rows-not-prepared": "needs several processes; data/test_cache_ranks.py",
    "rows-without-loss": "such rows are left out before the trainer is built: a guard; doctor/test_built.py",
    "saved-differs": "no recipe saves another model than it trains: a guard; training/test_saving.py",
    "saved-incomplete": "no recipe saves half a model: a guard against layouts; training/test_saved.py",
    "saved-not-compared": "needs a machine with too little memory; training/test_saving.py",
    "saved-pickled": "upstream writes none: a guard; training/test_saved.py",
    "scoring-failed": "needs Ray or Slurm; curation/test_executors.py",
    "server-failed": "a failure inside of `lifecycle serve`; serving/test_server.py",
    "submit-failed": "needs Slurm; curation/test_executors.py",
    "unknown-form": "an argument of `lifecycle push`; publish/test_push.py",
    "unknown-recipes": "an argument of `lifecycle recipes copy`; life/test_bundled_recipes.py",
    "unknown-argument": "an argument of `lifecycle gate`; doctor/test_broken.py",
    "unreadable-source": "the Hub, online; doctor/test_broken.py",
    "worker-killed": "a process must be killed; curation/test_executors.py",
    "zero-label-batch": "such rows are left out before the trainer is built: a guard; doctor/test_built.py",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """code -> what the command of its recipe did, all in a directory that looks like the repository."""
    place = tmp_path_factory.mktemp("broken")
    shutil.copytree(ROOT / "recipes", place / "recipes")  # no link: cures change these files
    for name in ("chat_templates", "accelerate_configs", "deepspeed_configs"):
        (place / name).symlink_to(ROOT / name)
    before = Path.cwd()
    os.chdir(place)
    try:
        runner.prepare(place)
        yield {broken.code: runner.run(broken) for broken in RECIPES}
    finally:
        os.chdir(before)


@pytest.mark.parametrize("broken", RECIPES, ids=lambda b: b.code)
def test_it_is_named_by_its_own_code(broken, outcomes):
    outcome = outcomes[broken.code]
    assert not outcome.fault(broken), f"{outcome.fault(broken)}\n{outcome.text}"
    assert (f"error [{broken.code}]" in outcome.text) == (broken.status != 0), "errors stop, warnings do not"


@pytest.mark.parametrize("broken", RECIPES, ids=lambda b: b.code)
def test_it_says_what_and_where_in_a_line(broken, outcomes):
    lines = [line for line in outcomes[broken.code].text.splitlines() if f" [{broken.code}] " in line]
    assert lines and all(len(line) < 600 for line in lines), lines
    assert not any(word in line for line in lines for word in ("<class", "object at 0x", "Error:")), lines
    if broken.command[1] == "check":
        place = lines[0].partition("] ")[2].partition(": ")[0]
        assert "/" in place or place.startswith("--"), lines[0]


@pytest.mark.parametrize("broken", CURED, ids=lambda b: b.code)
def test_its_cure_works(broken, outcomes):
    cured = runner.cure(broken)
    assert broken.code not in cured.codes and "error [" not in cured.text, cured.text
    assert cured.status == 0 and "Traceback" not in cured.text, cured.text


@pytest.mark.parametrize("broken", [b for b in CURED if b.code not in NOT_NAMED], ids=lambda b: b.code)
def test_its_message_names_what_the_cure_changes(broken, outcomes):
    after = outcomes[broken.code].text.partition(f" [{broken.code}] ")[2].splitlines()
    said = " ".join([after[0], *(line for line in after[1:2] if line.startswith("    fix: "))])
    for words in what_changes(broken):
        assert any(word in said for word in words), f"none of {sorted(words)} in: {said}"


def what_changes(broken) -> list[set[str]]:
    """For every override or file that the cure changes, the words of which the message must contain one."""
    command, words = broken.command, shlex.split(broken.cure)
    if broken.cure.startswith(("--", "lifecycle ", "python ")):
        overrides, _, _ = split_arguments(words)
        new = [(key, text) for key, text in overrides if f"--{key}" not in command or text not in command]
        changed = set(words) - set(command) or set(command) - set(words)
        return [words_of(key, text) for key, text in new] or [changed]
    path, line = words[-1], re.match(r"(\d+)[a-z]", words[2])
    if path.startswith("build/"):
        return [{path, str(Path(path).parent)}]
    return [{f"{path}:{line[1]}" if line else path}]


def words_of(name: str, text: str) -> set[str]:
    """The key of an override, in a sentence as well, and the words of its value that are no YAML."""
    key = name.rpartition(".")[2]
    values = set(re.findall(r"[\w.-]{2,}", text)) - {"true", "false", "null"}
    return {key, key.replace("_", " "), *values}


def test_a_recipe_without_a_cure_has_a_reason():
    assert sorted(broken.code for broken in ALL if not broken.cure) == sorted(
        " ".join(NO_CURE.values()).split()
    )


def test_every_code_has_a_recipe_of_its_own():
    assert all(path.parent.name == broken.code for path, broken in zip(paths(), ALL, strict=True))
    shown = {broken.code for broken in ALL}
    assert not shown & set(BY_NO_RECIPE)
    assert shown | set(BY_NO_RECIPE) == set(CODES)


@pytest.mark.parametrize(("code", "why"), BY_NO_RECIPE.items(), ids=BY_NO_RECIPE)
def test_what_no_recipe_shows_is_tested(code, why):
    tree = ast.parse((ROOT / "tests" / why.rpartition("; ")[2]).read_text())
    table = (
        next(n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "BY_NO_RECIPE")
        if ("test_broken" in why)
        else None
    )
    tree.body = [node for node in tree.body if node is not table]
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    word = re.compile(rf"(?<![\w-]){code}(?![\w-])")
    assert any(word.search(text) for text in strings), "no string of that test names the code"


def named(code: str, call, *arguments) -> None:
    """`call` raises a Refusal, or returns findings, with that code alone."""
    try:
        findings = call(*arguments)
    except Refusal as refusal:
        findings = refusal.findings
    assert [finding.code for finding in findings] == [code]


def test_revisions_tokens_and_sources_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for kind in ("models", "datasets"):
        (tmp_path / f"{kind}--lifecycle-recipes--tiny/snapshots/abc").mkdir(parents=True)
    values = {"model": {"model_name_or_path": "lifecycle-recipes/tiny", "model_revision": "v2"}}
    raw = RawRecipe("recipe.yaml", "sft", values, "", [], "")
    named("missing-revision", find_in_hub, raw)
    named("unreadable-source", read_hub, Source("lifecycle-recipes/tiny"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    raw.values["train"] = {"push_to_hub": True}
    named("no-hub-token", find_in_machine, raw)


def test_other_versions_and_arguments_that_do_nothing(capsys):
    named("no-schema", load_schema, "distil")
    with pytest.raises(SystemExit) as end:
        cli.main(["gate", "runs/desk", "--train.seed", "1"])
    assert end.value.code == 2 and "error [unknown-argument]" in capsys.readouterr().err


def paths() -> list[Path]:
    return sorted(BROKEN.glob("*/recipe.yaml"))


@pytest.mark.parametrize("path", paths(), ids=lambda p: p.parent.name)
def test_its_command_is_about_itself(path):
    """The second line can be typed as it stands, and every file beside the recipe is used by it."""
    command = path.read_bytes().decode("utf-8", "replace").splitlines()[1]
    assert f"recipes/broken/{path.parent.name}/recip" in command
    text = path.read_bytes().decode("utf-8", "replace")
    for other in path.parent.iterdir():
        assert other.name in ("recipe.yaml", "README.md") or other.name in text, f"{other} is not used"


def test_a_slip_in_a_recipe_shows_within_a_second():
    """As a user types it: a new process, no torch. Its own seconds, whatever else the machine does."""
    recipe = "recipes/broken/unknown-key/recipe.yaml"
    command = [sys.executable, "-m", "lifecycle_recipes.cli", "check", recipe]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2 and "did you mean learning_rate?" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


RIGHT = sorted((BROKEN / "right").glob("*.yaml"))


@pytest.mark.parametrize("path", RIGHT, ids=lambda p: p.stem)
def test_the_right_ones_are_right(path, outcomes):
    """No false alarm: what the broken ones differ from passes every level without a word."""
    here = path.relative_to(ROOT)
    found = runner.run(runner.Broken("", ["lifecycle", "check", str(here)], 0, ""))
    assert found.status == 0 and not found.codes, found.text
