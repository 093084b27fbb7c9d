"""Sizes and keys of a model with random weights, which are named with their line before anything starts."""

from pathlib import Path

import pytest

from lifecycle_recipes.doctor.check import check

RECIPE = """stage: pretrain
architecture:
  model_type: llama
  tokenizer: ./tokenizer
  config:
    hidden_size: 96
    num_hidden_layers: 2
    num_attention_heads: 4
    max_position_embeddings: 256
text:
  block_size: 64
data:
  sources:
    - path: rows.jsonl
train:
  output_dir: run
  max_steps: 2
  report_to: none
"""


@pytest.fixture
def found(tmp_path, monkeypatch):
    """What level 1 finds about the architecture of the recipe with one line changed."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "a"}\n')

    def find(old: str = "", new: str = "") -> list[tuple[str, str, str]]:
        Path("r.yaml").write_text(RECIPE.replace(old, new) if old else RECIPE)
        findings = check("r.yaml", upto=1).findings
        return [(f.code, f.where, f"{f.message}\n{f.fix}") for f in findings if f.code != "parent-missing"]

    return find


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "part"),
    [
        ("model_type: llama", "model_type: lama", "unknown-model-type", 3, "'llama'"),
        ("hidden_size: 96", "hiden_size: 96", "unknown-config-key", 6, "did you mean 'hidden_size'?"),
        ("hidden_size: 96", "vocab_size: 96", "unknown-config-key", 6, "cannot be set here"),
        ("hidden_size: 96", "hidden_size: -96", "out-of-range", 6, "at least 1"),
        ("num_hidden_layers: 2", "num_hidden_layers: 0", "out-of-range", 7, "at least 1"),
        ("num_hidden_layers: 2", 'num_hidden_layers: "2"', "wrong-type", 7, "must be an integer"),
        ("num_attention_heads: 4", "num_attention_heads: 5", "bad-config", 8, "not a multiple"),
        ("max_position_embeddings: 256", "num_key_value_heads: 3", "bad-config", 9, "num_attention_heads 4"),
        ("block_size: 64", "block_size: 512", "block-too-long", 11, "256 positions"),
    ],
)
def test_a_mistake_is_named_at_level_1_with_its_line(found, old, new, code, line, part):
    ((named, where, text),) = found(old, new)
    assert (named, where) == (code, f"r.yaml:{line}") and part in text
    assert "has no such key" not in text or "hiden_size" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("num_attention_heads: 4", "num_attention_heads: 5\n    head_dim: 16"),
        ("model_type: llama", "model_type: qwen3"),
        ("num_attention_heads: 4", "num_key_value_heads: null"),
        ("max_position_embeddings: 256", "rope_parameters: {rope_theta: 500.0}"),
    ],
)
def test_what_transformers_accepts_is_not_refused(found, old, new):
    assert found(old, new) == []
