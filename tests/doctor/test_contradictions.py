"""Level 1, values: settings that contradict each other are named before torch is imported."""

import pytest

from lifecycle_recipes.doctor.recipe_level.settings import find_in_settings
from lifecycle_recipes.recipe.read import read_recipe

DATA = "data: {sources: [{path: a.jsonl}]}\n"
HELD_OUT = "data: {sources: [{path: a.jsonl}], eval_fraction: 0.1}\n"


def found(tmp_path, stage="sft", model="", train="", data=DATA, more=""):
    """(code, severity, line) of every finding of a recipe with these additions."""
    file = tmp_path / "r.yaml"
    file.write_text(
        f"stage: {stage}\nmodel:\n  model_name_or_path: parent\n{indent(model)}{data}"
        f"train:\n  output_dir: run\n{indent(train)}{more}"
    )
    findings = find_in_settings(read_recipe(str(file)))
    assert all(f.message and f.fix for f in findings)
    return [(f.code, f.severity, f.where.removeprefix(f"{file}:")) for f in findings]


def indent(lines: str) -> str:
    return "".join(f"  {line.strip()}\n" for line in lines.split("\n") if line.strip())


def test_a_plain_recipe_has_no_contradiction(tmp_path):
    for stage in ("sft", "dpo", "kto", "reward"):
        assert found(tmp_path, stage) == []
        assert found(tmp_path, stage, train="eval_strategy: steps", data=HELD_OUT) == []


@pytest.mark.parametrize(
    ("code", "line", "recipe"),
    [
        ("lora-without-peft", "4", {"model": "lora_r: 8"}),
        ("lora-without-peft", "4", {"model": "load_in_4bit: true"}),
        ("lora-without-peft", "4", {"model": "use_dora: true"}),
        ("lora-without-peft", "4", {"model": "lora_dropout: 0.0"}),
        ("two-quantizations", "4", {"model": "load_in_4bit: true\nload_in_8bit: true\nuse_peft: true"}),
        ("two-precisions", "8", {"train": "bf16: true\nfp16: true"}),
        ("eval-without-data", "7", {"train": "eval_strategy: steps"}),
        ("best-without-eval", "7", {"train": "load_best_model_at_end: true", "data": HELD_OUT}),
        ("best-without-eval", "7", {"train": "metric_for_best_model: loss", "data": HELD_OUT}),
        ("best-without-eval", "7", {"train": "save_strategy: best", "data": HELD_OUT}),
        ("best-without-eval", "7", {"train": "lr_scheduler_type: greedy", "data": HELD_OUT}),
        ("eval-keys-unused", "7", {"train": "eval_steps: 50", "data": HELD_OUT}),
        (
            "best-not-saved",
            "8",
            {"train": "eval_strategy: epoch\nload_best_model_at_end: true", "data": HELD_OUT},
        ),
        (
            "best-not-saved",
            "7",
            {
                "train": "load_best_model_at_end: true\neval_strategy: steps\neval_steps: 30\nsave_steps: 50",
                "data": HELD_OUT,
            },
        ),
        (
            "best-not-saved",
            "8",
            {"train": "eval_strategy: epoch", "data": HELD_OUT, "more": "early_stopping: {patience: 3}\n"},
        ),
        ("best-without-eval", "7", {"data": HELD_OUT, "more": "early_stopping: {patience: 3}\n"}),
        ("packing-leaks", "8", {"train": "packing: true\npacking_strategy: wrapped"}),
        ("conflicting-keys", "7", {"train": "packing: true\nmax_length: null"}),
        ("conflicting-keys", "7", {"train": "padding_free: true"}),
        ("conflicting-keys", "7", {"stage": "dpo", "train": "loss_type: exo_pair"}),
        (
            "conflicting-keys",
            "7",
            {"stage": "dpo", "train": "loss_type: [sigmoid]\nloss_weights: [1.0, 1.0]"},
        ),
        ("conflicting-keys", "7", {"train": "dataloader_prefetch_factor: 2"}),
        ("no-effect", "7", {"train": "assistant_only_loss: false"}),
        (
            "no-effect",
            "6",
            {"stage": "reward", "data": "data:\n  sources: [{path: a.jsonl}]\n  truncation: drop\n"},
        ),
    ],
)
def test_named_with_its_line(tmp_path, code, line, recipe):
    assert found(tmp_path, **recipe) == [(code, "error", line)]


@pytest.mark.parametrize(
    ("code", "line", "recipe"),
    [
        ("qlora-full-precision", "6", {"model": "use_peft: true\nload_in_4bit: true\ndtype: float32"}),
        ("epochs-unused", "8", {"train": "max_steps: 5\nnum_train_epochs: 2"}),
    ],
)
def test_suspicious_settings_are_warnings(tmp_path, code, line, recipe):
    assert found(tmp_path, **recipe) == [(code, "warning", line)]


def test_what_goes_together_is_left_alone(tmp_path):
    best = "load_best_model_at_end: true\neval_strategy: steps\neval_steps: 50\nsave_steps: 100"
    assert found(tmp_path, train=best, data=HELD_OUT) == []
    assert found(tmp_path, train=best, data=HELD_OUT, more="early_stopping: {patience: 3}\n") == []
    assert found(tmp_path, model="use_peft: true\nlora_r: 8\nload_in_4bit: true\ndtype: bfloat16") == []
    assert found(tmp_path, train="packing: true\npacking_strategy: bfd_split") == []
    assert found(tmp_path, train="padding_free: true\nmax_length: null") == []
    assert found(tmp_path, "dpo", train="loss_type: exo_pair\nlabel_smoothing: 0.001") == []
    assert found(tmp_path, model="lora_task_type: CAUSAL_LM") == []


def test_ppo_has_rules_of_its_own(tmp_path):
    reward = "reward: {model_name_or_path: scorer}\n"
    assert found(tmp_path, "ppo", more=reward) == []
    for train, code in (
        ("eval_strategy: steps", "ppo-no-eval"),
        ("max_steps: 4\ntotal_episodes: 8", "two-lengths"),
    ):
        assert [c for c, *_ in found(tmp_path, "ppo", train=train, more=reward)] == [code]
    stopping = reward + "early_stopping: {patience: 3}\n"
    assert found(tmp_path, "ppo", more=stopping) == [("ppo-no-eval", "error", "8")]
    quantised = "reward: {model_name_or_path: scorer, load_in_4bit: true}\n"
    assert found(tmp_path, "ppo", more=quantised) == [("ppo-no-quantization", "error", "7")]


def test_a_vocabulary_holds_the_bytes_and_the_special_tokens(tmp_path):
    file = tmp_path / "r.yaml"
    for keys, code, line in (
        ("vocab_size: 200", "vocab-too-small", 4),
        ("vocab_size: 300\n  special_tokens: [a]", "missing-special-token", 5),
        ("vocab_size: 260", None, 0),
    ):
        file.write_text(f"stage: tokenizer\ntokenizer:\n  output_dir: run\n  {keys}\n{DATA}")
        found = find_in_settings(read_recipe(str(file)))
        assert [(f.code, f.where) for f in found] == ([(code, f"{file}:{line}")] if code else [])


def test_a_pretrained_model_starts_in_one_way(tmp_path):
    file = tmp_path / "r.yaml"
    parts = "stage: pretrain\ntext: {block_size: 64}\n" + DATA + "train: {output_dir: run}\n"
    start = "model: {model_name_or_path: parent}\n"
    nothing = "architecture: {model_type: llama, tokenizer: tok}\n"
    for text, code in ((parts, "no-single-start"), (parts + start + nothing, "no-single-start")):
        file.write_text(text)
        assert [f.code for f in find_in_settings(read_recipe(str(file)))] == [code]
    for text in (parts + start, parts + nothing):
        file.write_text(text)
        assert find_in_settings(read_recipe(str(file))) == []
    file.write_text(parts + "model: {model_name_or_path: parent, use_peft: true}\n")
    assert [f.code for f in find_in_settings(read_recipe(str(file)))] == ["pretrain-no-adapter"]
