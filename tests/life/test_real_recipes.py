"""Recipes for real models: what they promise in their headers, level 1 offline, and two steps of every one.

The steps are taken by the stage's own `main`, on a tiny random model of the same family and rows of the same
columns as the dataset that the recipe names.
"""

import importlib
import json
import re
import time
from pathlib import Path

import pytest
from families import FAMILIES, save_model
from repository import ROOT

from lifecycle_recipes.layouts.layout import read_layout
from lifecycle_recipes.recipe.read import read_recipe

REAL = sorted(p for p in (ROOT / "recipes").glob("*/*.yaml") if p.parent.name in FAMILIES)
STEMS = {str(p.relative_to(ROOT / "recipes").with_suffix("")) for p in REAL}
# What a machine without the Hub, a GPU or earlier runs lacks; nothing else may be found.
OF_THIS_MACHINE = {"not-cached", "parent-missing", "no-hub-token", "push-offline", "missing-package"}
OF_THIS_MACHINE |= {"task-not-cached", "no-wandb-login"}
OF_THIS_MACHINE |= {"disk-too-small", "no-bf16-hardware"}


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def each(paths=REAL):
    return pytest.mark.parametrize("path", paths, ids=name)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def values_of(path: Path) -> dict:
    return read_recipe(path.relative_to(ROOT), []).values


# What cutting a run down to two steps on 24 rows brings with it.
OF_TWO_STEPS = {"epochs-unused", "one-packed-row"}


# --- what a recipe says -----------------------------------------------------------------------------------


def test_every_family_has_recipes():
    assert {p.parent.name for p in REAL} == set(FAMILIES)


@each()
def test_the_header_says_how_to_run_it_and_what_it_is(path):
    stage = read_recipe(path.relative_to(ROOT), []).stage
    lines = path.read_text().splitlines()
    run = re.search(r"Run: lifecycle run (\S+) --layout (\w+)$", lines[0])
    assert run and run[1] == str(path.relative_to(ROOT)), lines[0]
    assert (ROOT / f"accelerate_configs/{run[2]}.yaml").is_file()
    assert lines[1] == f"# yaml-language-server: $schema=../../schemas/{stage}.json"
    assert lines[2].startswith(f"# Layout: {run[2]}")


@each()
def test_the_global_batch_is_declared_once_and_fits_the_layout_of_the_header(path):
    values = values_of(path)
    assert "gradient_accumulation_steps" not in values["train"]
    layout = read_layout(re.search(r"--layout (\w+)$", path.read_text().splitlines()[0])[1])
    rows = values["train"]["per_device_train_batch_size"]
    assert values["global_batch_size"] % (rows * layout.data_parallel) == 0


@each()
def test_it_reports_pushes_privately_and_writes_where_its_children_look(path):
    values = values_of(path)
    train = values["train"]
    assert train["report_to"] == "wandb" and train["push_to_hub"] and train["hub_private_repo"]
    assert train["output_dir"] == f"runs/{name(path)}"
    for role in ("model", "reward"):
        parent = values.get(role, {}).get("model_name_or_path", "")
        assert not parent.startswith("runs/") or parent.removeprefix("runs/") in STEMS, parent


@each()
def test_pinned_revisions_are_commits_of_datasets_that_it_reads(path):
    values = values_of(path)
    data = values["data"]
    read = {s["path"] for s in [*data["sources"], *data.get("eval_sources", [])]}
    for dataset, revision in values.get("pinned", {}).items():
        assert dataset in read and re.fullmatch("[0-9a-f]{40}", revision)


@each()
def test_no_row_is_trained_on_and_held_out(path):
    data = values_of(path)["data"]
    for source in data.get("eval_sources", []):
        assert source["split"] not in {s["split"] for s in data["sources"]}


@each()
def test_level_1_finds_nothing_but_what_this_machine_lacks(path):
    from lifecycle_recipes.doctor.check import check

    started = time.process_time()
    report = check(str(path.relative_to(ROOT)), [], upto=1)
    assert not report.errors
    assert {f.code for f in report.warnings} <= OF_THIS_MACHINE, report.warnings
    assert time.process_time() - started < 2  # CPU seconds, beside another process


# --- two steps of it --------------------------------------------------------------------------------------

QUESTIONS = [f"Which team owns service {i} of the desk?" for i in range(32)]
ANSWERS = [f"Service {i} belongs to the team of the {c} room." for i, c in enumerate("red blue".split() * 16)]


def user(i: int) -> list[dict]:
    return [{"role": "user", "content": QUESTIONS[i]}]


def assistant(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def chat(i: int) -> list[dict]:
    return user(i) + assistant(ANSWERS[i])


BASES = {
    *(
        "HuggingFaceTB/SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-1.7B",
        "Qwen/Qwen3-0.6B-Base",
        "Qwen/Qwen3-8B-Base",
    ),
    *("meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3"),
}
# The columns of each dataset, as its card gives them; `messages` alone where we know no more.
COLUMNS = {
    "HuggingFaceTB/smol-smoltalk": lambda i: {"messages": chat(i), "source": "a"},
    "HuggingFaceTB/smoltalk": lambda i: {"messages": chat(i), "source": "a"},
    "HuggingFaceH4/ultrachat_200k": lambda i: {
        "prompt": QUESTIONS[i],
        "prompt_id": f"{i:064x}",
        "messages": chat(i),
    },
    "HuggingFaceH4/deita-10k-v0-sft": lambda i: {"messages": chat(i)},
    "trl-lib/Capybara": lambda i: {"source": "a", "messages": chat(i), "num_turns": 1},
    "allenai/tulu-3-sft-mixture": lambda i: {"id": str(i), "messages": chat(i), "source": "a"},
    "trl-lib/ultrafeedback_binarized": lambda i: {
        "chosen": chat(i),
        "rejected": user(i) + assistant("Who knows. " * (1 + 7 * (i % 2))),
        "score_chosen": 8.0,
        "score_rejected": 4.0,
    },
    "trl-lib/ultrafeedback-prompt": lambda i: {"prompt": user(i)},
    "trl-lib/kto-mix-14k": lambda i: {
        "prompt": user(i),
        "completion": assistant(ANSWERS[i] if i % 2 else "Who knows."),
        "label": bool(i % 2),
    },
    "HuggingFaceTB/finemath": lambda i: {
        "url": f"https://a.example/{i}",
        "text": f"{QUESTIONS[i]} {ANSWERS[i]}",
    },
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Function (family name, role) -> directory of that tiny model, built once."""
    made = {}

    def get(family: str, role: str) -> str:
        if (family, role) not in made:
            path = tmp_path_factory.mktemp(f"{family}-{role}")
            made[family, role] = save_model(FAMILIES[family], path, QUESTIONS + ANSWERS, role)
        return str(made[family, role])

    return get


def rows_of(source: dict, use: str, folder: Path) -> dict:
    """The source with a small parquet file in the place of its dataset."""
    from datasets import Dataset

    rows = range(24) if use == "sources" else range(24, 32)
    path = folder / f"{use}.parquet"
    Dataset.from_list([COLUMNS[source["path"]](i) for i in rows]).to_parquet(path)
    return {k: v for k, v in source.items() if k == "columns"} | {"path": str(path)}


def overrides(path: Path, tiny, folder: Path) -> list[str]:
    """What brings a real recipe down to two steps on this machine; every other setting stays."""
    values, family = values_of(path), path.parent.name
    parent = values["model"]["model_name_or_path"]
    if parent.startswith("runs/"):
        role = "assistant"
    else:
        role = (
            "chat" if values["train"].get("chat_template_path") is None and "text" not in values else "base"
        )
    changes = {"model.model_name_or_path": tiny(family, role)}
    if "reward" in values:
        changes["reward.model_name_or_path"] = tiny(family, "reward")
    for use in ("sources", "eval_sources"):
        if sources := values["data"].get(use):
            changes[f"data.{use}"] = [rows_of(source, use, folder) for source in sources]
    if values["data"].get("eval_fraction"):
        changes["data.eval_fraction"] = 0.25
    changes |= {
        "train.output_dir": str(folder / "run"),
        "train.max_steps": 2,
        "global_batch_size": 2,
        "train.per_device_train_batch_size": 2,
        "train.report_to": "none",
        "train.push_to_hub": False,
        "gate": [],
        "pinned": {},
    }
    if "evaluate" in values:
        changes["evaluate"] = None  # lm-eval's tasks come from the Hub
    if "reward" in values:
        changes |= {"train.response_length": 8, "train.local_rollout_forward_batch_size": 2}
    return [word for key, value in changes.items() for word in (f"--{key}", json.dumps(value))]


def take_two_steps(path: Path, tiny, folder: Path) -> dict:
    stage = read_recipe(path.relative_to(ROOT), []).stage
    main = importlib.import_module(f"lifecycle_recipes.stages.{stage}").main
    try:
        main([str(path.relative_to(ROOT)), *overrides(path, tiny, folder)])
    except SystemExit as end:
        assert not end.code, f"exit status {end.code}"
    return json.loads((folder / "run/run.json").read_text())


def check_two_steps(path: Path, tiny, folder: Path) -> None:
    """It trains, loses no row, and leaves what a child needs of this family: turn end, template, pad."""
    from transformers import AutoTokenizer

    record = take_two_steps(path, tiny, folder)
    assert record["status"] == "done" and record["metrics"]["steps"] == 2
    assert {finding["code"] for finding in record["findings"]} <= OF_TWO_STEPS, record["findings"]
    assert not record["data"]["left_out"] and not record["data"].get("truncated")
    assert list((folder / "run").glob("*.safetensors"))
    if record["stage"] in ("pretrain", "reward"):
        return
    family, tokenizer = FAMILIES[path.parent.name], AutoTokenizer.from_pretrained(folder / "run")
    assert tokenizer.eos_token == family.turn_end and tokenizer.chat_template
    # Where the family has no pad token, upstream would take the turn end, which PPO then cannot tell apart.
    assert tokenizer.pad_token != family.turn_end
    ends = json.loads((folder / "run/generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])


def one_of_each() -> list[Path]:
    """The first full or LoRA recipe of each architecture and stage; QLoRA and twins of a family are slow."""
    first = {}
    for path in REAL:
        kind = FAMILIES[path.parent.name].model_type, path.stem.split("-")[1]
        if "qlora" not in path.stem:
            first.setdefault(kind, path)
    return list(first.values())


@each(one_of_each())
def test_two_steps(path, tiny, tmp_path):
    check_two_steps(path, tiny, tmp_path)


@pytest.mark.slow
@each([path for path in REAL if path not in one_of_each()])
def test_two_steps_of_the_others(path, tiny, tmp_path):
    check_two_steps(path, tiny, tmp_path)
