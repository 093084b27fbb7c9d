"""Prepared rows come from the cache only where nothing that shapes them has changed, and only whole."""

import ast
import importlib.metadata
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from cached_rows import STAGES, build, entries, everything, is_hit, rows
from datasets import Dataset
from repository import ROOT

from lifecycle_recipes.data import cache, prepare, sources
from lifecycle_recipes.data.provenance import take_off
from lifecycle_recipes.recipe.read import load_recipe
from lifecycle_recipes.recipe.schema import recipe_class

PACKAGE = ROOT / "src/lifecycle_recipes"
# Functions of the stages that no row passes through.
NOT_PREPARING = ("main", "build_trainer", "load_scorer", "stop_at_turn_end", "room")
pytestmark = pytest.mark.usefixtures("own_cache")


def no_tokenizing(*args, **kwargs):
    raise AssertionError("rows were read again")


@pytest.mark.parametrize("stage", STAGES)
def test_a_hit_gives_the_same_training_and_reads_no_row(recipe_of, monkeypatch, stage):
    path = recipe_of(stage)
    trainer, run = build(path)
    made = everything(trainer, run)
    assert run.notes["data_cache"]["hit"] is False and run.findings == []
    monkeypatch.setattr(sources, "load_data", no_tokenizing)
    trainer, run = build(path)
    assert run.notes["data_cache"]["hit"] is True
    assert everything(trainer, run) == made


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "kto"])
def test_rows_are_those_of_upstreams_own_trainer(recipe_of, monkeypatch, stage):
    path = recipe_of(stage)
    trainer, _ = build(path)
    stock = next(
        c for c in type(trainer).__mro__ if c.__module__.startswith("trl.trainer.") and "_t" in c.__module__
    )
    recipe = load_recipe(recipe_class(stage), [path])
    recipe.train.per_device_train_batch_size = trainer.args.per_device_train_batch_size
    if stage == "sft":
        recipe.train.assistant_only_loss, recipe.train.eos_token = True, "<|im_end|>"
    columns = {"sft": ["messages"], "kto": ["prompt", "completion", "label"]}
    read = sources.load_data(recipe.data, columns.get(stage, ["chosen", "rejected", "prompt"]))
    if stage == "reward":
        from lifecycle_recipes.stages.reward import tokenize_pairs

        read = [part and tokenize_pairs(part, trainer.processing_class) for part in read[:2]]
    theirs = stock(
        model=trainer.model,
        args=recipe.train,
        train_dataset=read[0],
        eval_dataset=read[1],
        processing_class=trainer.processing_class,
    )
    assert rows(trainer.train_dataset) == rows(take_off(theirs.train_dataset))
    assert rows(trainer.eval_dataset) == rows(take_off(theirs.eval_dataset))


def test_packed_conversations_come_back_with_their_labels(recipe_of):
    path = recipe_of("sft", train={"packing": True, "max_length": 64})
    (first, _), (again, run) = build(path), build(path)
    assert run.notes["data_cache"]["hit"] and again.args.assistant_only_loss is True
    assert rows(first.train_dataset) == rows(again.train_dataset)
    assert "seq_lengths" in again.train_dataset.column_names


def test_a_sweep_of_what_touches_no_row_makes_one_entry(recipe_of, tmp_path):
    path = recipe_of("sft")
    assert not is_hit(path)
    for override in ("--learning_rate 3e-5", f"--output_dir {tmp_path}/other", "--train.weight_decay 0.1"):
        assert is_hit(path, *override.split())
    assert is_hit(path, "--per_device_train_batch_size", "2", "--model.use_peft", "true")
    assert len(entries()) == 1


def edit(file, old: str, new: str) -> None:
    """Change a file, and neither its size nor its time of change."""
    before, text = os.stat(file), Path(file).read_text()
    assert old in text and len(old) == len(new)
    Path(file).write_text(text.replace(old, new, 1))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_row_is_read_even_if_its_file_looks_the_same(recipe_of):
    path = recipe_of("sft")
    before, _ = build(path)
    edit(Path(path).parent / "train.jsonl", "It is red.", "It is RED.")
    after, run = build(path)
    assert run.notes["data_cache"]["hit"] is False
    text = after.processing_class.decode(sum(after.train_dataset["input_ids"], []))
    assert "It is RED." in text
    assert rows(before.train_dataset) != rows(after.train_dataset)


def test_a_changed_template_or_tokenizer_misses(recipe_of, chat_model, tmp_path):
    template = tmp_path / "own.jinja"
    shutil.copy(ROOT / "chat_templates/chatml.jinja", template)
    path = recipe_of("sft", train={"chat_template_path": str(template)})
    before, _ = build(path)
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_start|> ", 1))
    after, run = build(path)
    assert not run.notes["data_cache"]["hit"]
    assert rows(before.train_dataset) != rows(after.train_dataset)
    # Without its merges: other ids from the same text.
    tokenizer = json.loads((chat_model / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (chat_model / "tokenizer.json").write_text(json.dumps(tokenizer))
    other, run = build(path)
    assert not run.notes["data_cache"]["hit"]
    assert rows(other.train_dataset) != rows(after.train_dataset)


@pytest.mark.parametrize(
    "override", ["max_length 40", "data.seed 1", "truncation_mode keep_end", "train.seed 3"]
)
def test_a_setting_that_may_shape_rows_misses(recipe_of, override):
    path = recipe_of("sft")
    assert not is_hit(path)
    assert not is_hit(path, *f"--{override}".split())


def test_a_waiver_another_package_and_another_version_of_ours_miss(recipe_of, monkeypatch):
    path, theirs = recipe_of("dpo"), importlib.metadata.version
    assert not is_hit(path) and is_hit(path)
    assert not is_hit(path, "--allow.empty-reply", "a test")
    for package in ("trl", "transformers", "tokenizers", "datasets"):
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, p=package: "0.0.1" if name == p else theirs(name)
        )
        assert not is_hit(path)
    monkeypatch.setattr(importlib.metadata, "version", theirs)
    assert is_hit(path)
    monkeypatch.setattr(cache, "_hash_code", lambda stage: "after a commit")
    assert not is_hit(path)


def test_all_code_that_prepares_rows_is_in_the_key():
    """What a stage's functions import to prepare rows lies in data/ or is named in ROW_CODE."""
    for stage in STAGES:
        tree = ast.parse((PACKAGE / f"stages/{stage}.py").read_text(encoding="utf-8"))
        functions = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name not in NOT_PREPARING]
        found = [node for f in functions for node in ast.walk(f) if isinstance(node, ast.Name)]
        names = {n.id for n in found} - {n.id for n in found if isinstance(n.ctx, ast.Store)}
        ours = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 2]
        inside = {id(node) for f in functions for node in ast.walk(f)}
        used = [n for n in ours if id(n) in inside or names & {alias.name for alias in n.names}]
        files = {node.module.replace(".", "/") + ".py" for node in used} - {"finding.py"}
        assert [f for f in files if not f.startswith("data/") and f not in cache.ROW_CODE] == [], stage


def test_ktos_pairs_of_neighbours_belong_to_their_batch(recipe_of):
    path = recipe_of("kto")
    eight, _ = build(path, "--per_device_train_batch_size", "8")
    three, run = build(path, "--per_device_train_batch_size", "3")
    assert not run.notes["data_cache"]["hit"]
    assert eight.train_dataset["KL_completion_ids"][:] != three.train_dataset["KL_completion_ids"][:]


def test_what_is_not_in_the_key_cannot_reach_the_rows(recipe_of):
    names = set()
    for stage in STAGES:
        recipe = load_recipe(recipe_class(stage), [recipe_of(stage), "--learning_rate", "0.5"])
        own = prepare.only_data(recipe)
        assert own.train.learning_rate != 0.5 and recipe.train.learning_rate == 0.5
        assert own.train.output_dir is None and own.model is None and recipe.model is not None
        names |= {field.name for field in fields(recipe.train)}
    assert cache.NOT_ROWS - names == set()  # a name that upstream dropped


def test_a_hub_source_is_known_by_what_is_really_read(recipe_of, monkeypatch, tiny_chat_rows):
    path, made = recipe_of("sft"), []

    def read_hub(source, digest=None):
        rows = Dataset.from_list(made[-1])
        rows._fingerprint = str(len(made))
        return rows

    monkeypatch.setattr(sources, "read_hub", read_hub)
    hub = ["--data.sources", "[{path: owner/name}]"]
    made.append(tiny_chat_rows[:8])
    assert not is_hit(path, *hub) and is_hit(path, *hub)
    made.append(tiny_chat_rows[8:20])
    trainer, run = build(path, *hub)
    assert not run.notes["data_cache"]["hit"] and len(trainer.train_dataset) == 12


def test_an_input_that_changes_while_it_is_read_is_not_kept(recipe_of, monkeypatch):
    path, load = recipe_of("dpo"), sources.load_data

    def load_and_change(*args, **kwargs):
        found = load(*args, **kwargs)
        with open(Path(path).parent / "train.jsonl", "a") as file:
            file.write(" \n")
        return found

    monkeypatch.setattr(sources, "load_data", load_and_change)
    _, run = build(path)
    assert [f.code for f in run.findings] == ["cache-unusable"] and entries() == []
