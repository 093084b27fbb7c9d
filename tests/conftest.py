"""Tiny real things, built on the spot and offline: a tokenizer, a Llama and a few conversations."""

import os

# Before any import of torch or the Hub client.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As a stage sets it before its imports; here another test may have imported datasets already.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import atexit
import json
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from repository import ROOT

pytest_plugins = ["eval_fixtures", "push_fixtures", "small_disk"]
# Prepared rows: none of the user's, and none left behind.
if "LIFECYCLE_CACHE" not in os.environ:
    os.environ["LIFECYCLE_CACHE"] = tempfile.mkdtemp(prefix="lifecycle-tests-")
    atexit.register(shutil.rmtree, os.environ["LIFECYCLE_CACHE"], ignore_errors=True)
# A test that uses one of these loads a model: the tiny ones, an assistant with set answers, a pretraining
# recipe, the families of the real recipes, and the outcomes of recipes/broken.
MODELS = {"tiny_model_dir", "tiny_reward_dir", "scripted", "make_recipe", "tiny", "outcomes"}
COLOURS = ["red", "green", "blue", "white", "black", "amber", "violet", "grey"]


STARTED = time.monotonic()
# Minutes after which no further slow test starts: those that are left are skipped by name. For a machine with a limit.
MINUTES = float(os.environ.get("LIFECYCLE_SLOW_MINUTES", "inf"))


def pytest_runtest_setup(item) -> None:
    if item.get_closest_marker("slow") and time.monotonic() - STARTED > MINUTES * 60:
        pytest.skip(f"no time is left of LIFECYCLE_SLOW_MINUTES={MINUTES:g}")


def pytest_collection_modifyitems(items) -> None:
    """Mark `model` what loads one, so that `make test-fast` can leave it out. The longest test goes first."""
    items.sort(key=lambda item: "test_whole_life" not in item.nodeid)
    for item in items:
        if MODELS & set(item.fixturenames):
            item.add_marker("model")


@pytest.fixture(scope="session")
def tiny_texts() -> list[str]:
    """64 short documents, all different."""
    return [
        f"Service {i} is {COLOURS[i % 8]}. Port: {8000 + i * 7}. It belongs to team {COLOURS[i // 8]}."
        for i in range(64)
    ]


@pytest.fixture(scope="session")
def tiny_chat_rows() -> list[dict]:
    """32 conversations, `{"messages": [...]}`, some with a system message, some with two turns."""
    rows = []
    for i in range(32):
        messages = [
            {"role": "user", "content": f"Which colour is service {i}?"},
            {"role": "assistant", "content": f"It is {COLOURS[i % 8]}."},
        ]
        if i % 4 == 0:
            messages.insert(0, {"role": "system", "content": "Answer in one line."})
        if i % 4 == 1:
            messages += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
        rows.append({"messages": messages})
    return rows


@pytest.fixture(scope="session")
def rows_of_stage(tiny_chat_rows) -> dict[str, list[dict]]:
    """stage -> rows of its shape."""
    asked = [row["messages"][-2:] for row in tiny_chat_rows]
    return {
        "sft": tiny_chat_rows,
        "dpo": [{"prompt": [q], "chosen": [a], "rejected": [a | {"content": "No."}]} for q, a in asked],
        "reward": [{"chosen": [q, a], "rejected": [q, a | {"content": "No."}]} for q, a in asked],
        "kto": [{"prompt": [q], "completion": [a], "label": True} for q, a in asked],
        "ppo": [{"prompt": [q]} for q, _ in asked],
    }


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory, tiny_texts) -> Path:
    """A byte-level BPE tokenizer of 300 tokens with the ChatML template and its special tokens."""
    from lifecycle_recipes.stages.tokenizer import TokenizerConfig, build_tokenizer

    path = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerConfig(
        output_dir=str(path), vocab_size=300, chat_template=str(ROOT / "chat_templates/chatml.jinja")
    )
    build_tokenizer(tiny_texts, config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory, tiny_tokenizer_dir) -> Path:
    """A saved Llama (2 layers, width 64) with random weights, and the tiny tokenizer beside it."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="session")
def tiny_reward_dir(tmp_path_factory, tiny_model_dir) -> str:
    """The tiny model with a random reward head."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = tmp_path_factory.mktemp("reward")
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(path)
    return str(path)


@pytest.fixture
def chat_model(tmp_path, tiny_model_dir) -> Path:
    """A chat model's directory of one's own: the turn end is among the ends of a generation."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    return tmp_path / "model"


@pytest.fixture
def stage_recipe(tmp_path, tiny_model_dir, tiny_chat_rows):
    """Writes a recipe of a stage on the tiny model and returns its path."""
    from preference_runs import pairs, thumbs, user, write_recipe

    rows = {
        "sft": tiny_chat_rows,
        "dpo": pairs(),
        "reward": pairs(),
        "kto": thumbs(),
        "ppo": [{"prompt": user(i)} for i in range(24)],
    }

    def write(stage, parent=tiny_model_dir, data=None, **sections):
        folder = tmp_path / f"{stage}{len(list(tmp_path.iterdir()))}"
        sections["train"] = {"use_cpu": True, **sections.get("train", {})}
        if stage == "ppo":
            sections["train"] |= {"response_length": 8, "num_ppo_epochs": 1, "num_mini_batches": 1}
        return write_recipe(folder, stage, data or rows[stage], parent, **sections)

    return write


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> None:
    """A data cache that is empty."""
    monkeypatch.setenv("LIFECYCLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def recipe_of(stage_recipe, tmp_path, tiny_texts, chat_model, tiny_reward_dir):
    """Writes a small recipe of any trainer stage, on a parent of its own, and returns its path."""
    from cached_rows import write_pretrain

    def write(stage, **sections):
        if stage == "pretrain":
            return write_pretrain(tmp_path / "pretrain", tiny_texts, chat_model)
        if stage == "ppo":
            sections["reward"] = {"model_name_or_path": tiny_reward_dir}
        return stage_recipe(stage, chat_model, **sections)

    return write


@pytest.fixture
def recipe_here(tmp_path, monkeypatch, tiny_model_dir, tiny_chat_rows):
    """A directory with a parent, its rows and the recipe `sft.yaml`, which has nothing wrong."""
    from checked import RECIPE

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_dir, "parent")
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, tiny_chat_rows)))
    Path("sft.yaml").write_text(RECIPE)
    return tmp_path
