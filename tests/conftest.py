"""Tiny real things, built on the spot and offline: a tokenizer, a Llama and a few conversations."""

import os

# Before any import of torch or the Hub client.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As a stage sets it before its imports; here another test may have imported datasets already.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ["red", "green", "blue", "white", "black", "amber", "violet", "grey"]


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
def repo_root() -> Path:
    return ROOT
