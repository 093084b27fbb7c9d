"""Every number of a recipe has a range: at its bounds it is accepted, beyond them refused with its line."""

import pytest
from recipe_text import SFT

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.check import types_of
from lifecycle_recipes.recipe.ranges import RANGES
from lifecycle_recipes.recipe.read import read_recipe
from lifecycle_recipes.recipe.schema import load_schema, stage_names

TEXT = "text:\n  block_size: 64\narchitecture:\n  model_type: llama\n  tokenizer: runs/tokenizer\n"
STAGES = {
    "sft": SFT,
    "pretrain": SFT.replace("sft", "pretrain").replace("model:\n  model_name_or_path: runs/parent\n", TEXT),
    "ppo": SFT.replace("sft", "ppo") + "reward:\n  model_name_or_path: runs/reward\n",
    "evaluate": (
        "stage: evaluate\nmodel:\n  model_name_or_path: runs/sft\nevaluate:\n  tasks: [a]\n  output_dir: runs/out\n"
    ),
    "tokenizer": (
        "stage: tokenizer\ntokenizer:\n  output_dir: runs/out\n  vocab_size: 300\n"
        "data:\n  sources:\n    - path: a.jsonl\n"
    ),
} | {stage: SFT.replace("sft", stage) for stage in ("dpo", "kto", "reward")}

# stage, key, values at the bounds and inside, values beyond.
TABLE = """
sft train.learning_rate | 1e-9 1 | 0 0.0 -0.0 -0.001
sft train.num_train_epochs | 0.01 3 | 0 -1
sft train.max_steps | -1 1 | 0 -2
sft train.save_steps | 0.1 1 | 0 -1 -0.1
sft train.eval_steps | 0.1 1 null | 0 -1
sft train.logging_steps | 0.1 1 | 0 -5
sft train.warmup_steps | 0 0.1 100 | -1 -0.1
sft train.weight_decay | 0 0.1 | -0.01
sft train.max_grad_norm | 0 1 | -1
sft train.adam_beta1 | 0 0.9 | 1 1.5 -0.1
sft train.adam_beta2 | 0 0.999 | 1 -0.1
sft train.adam_epsilon | 1e-8 | 0 -1e-8
sft train.label_smoothing_factor | 0 0.1 | 1 -0.1
sft train.neftune_noise_alpha | 0 5 null | -1
sft train.per_device_train_batch_size | 1 | 0 -1
sft train.per_device_eval_batch_size | 1 | 0 -8
sft train.gradient_accumulation_steps | 1 | 0 -1
sft train.eval_accumulation_steps | 1 null | 0
sft train.max_length | 1 null | 0 -1
sft train.save_total_limit | 1 null | 0 -1
sft train.dataloader_num_workers | 0 2 | -1
sft train.dataset_num_proc | 1 null | 0
sft train.ddp_timeout | 1 | 0
sft train.seed | 0 4294967295 | -1 4294967296
sft train.data_seed | 0 null | -1
sft data.seed | 0 4294967295 | -1 4294967296
sft data.eval_fraction | 0 0.999 | 1 1.0 20 -0.1
sft data.sources.0.max_rows | 1 null | 0 -1
sft model.lora_r | 1 | 0 -8
sft model.lora_alpha | 1 | 0 -1
sft model.lora_dropout | 0 0.5 | 1 -0.1
sft global_batch_size | 1 null | 0 -1
sft evaluate.limit | 1 null | 0 -1
sft evaluate.batch_size | 1 | 0
sft evaluate.max_new_tokens | 1 | 0
sft evaluate.samples | 0 3 | -1
pretrain text.block_size | 2 | 1 0 -1
pretrain train.learning_rate | 1e-9 | 0
tokenizer tokenizer.vocab_size | 1 | 0 -1
tokenizer tokenizer.sweep_hidden_size | 1 | 0
evaluate evaluate.limit | 1 null | 0
reward train.center_rewards_coefficient | 0 null | -0.1
dpo train.beta | 0.01 | 0 -0.1
dpo train.label_smoothing | 0 0.49 | 0.5 1 -0.1
dpo train.discopop_tau | 0.05 | 0
dpo train.ld_alpha | 0 1 null | 1.1 -0.1
dpo train.ref_model_mixup_alpha | 0 1 | 1.1 -0.1
dpo train.ref_model_sync_steps | 1 | 0
kto train.beta | 0.1 | 0
kto train.desirable_weight | 0 1.5 | -1
kto train.undesirable_weight | 0 | -1
ppo train.temperature | 0.1 1 | 0 0.0 -1
ppo train.kl_coef | 0 0.05 | -0.05
ppo train.response_length | 1 | 0 -1
ppo train.num_ppo_epochs | 1 | 0
ppo train.num_mini_batches | 1 | 0
ppo train.total_episodes | 1 null | 0
ppo train.local_rollout_forward_batch_size | 1 | 0
ppo train.num_sample_generations | 0 | -1
ppo train.gamma | 0 1 | 1.1 -0.1
ppo train.lam | 0 1 | 1.1 -0.1
ppo train.cliprange | 0.2 | 0
ppo train.vf_coef | 0 | -0.1
ppo train.missing_eos_penalty | 0 null | -1
ppo value.lora_r | 1 | 0
"""
CASES = [
    [*parts[0].split(), *parts[1:]] for line in TABLE.strip().splitlines() if (parts := line.split(" | "))
]
ACCEPTED = [(stage, key, value) for stage, key, good, _ in CASES for value in good.split()]
REFUSED = [(stage, key, value) for stage, key, _, bad in CASES for value in bad.split()]


@pytest.fixture
def read(tmp_path):
    def read(stage: str, *overrides: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(STAGES[stage])
        return read_recipe(path, list(overrides))

    return read


@pytest.mark.parametrize(("stage", "key", "value"), ACCEPTED)
def test_a_number_at_its_bound_is_accepted(read, stage, key, value):
    # `value.lora_r` needs a section of its own.
    extra = ["--value", "{model_name_or_path: runs/value}"] if key.startswith("value.") else []
    read(stage, *extra, f"--{key}={value}")


@pytest.mark.parametrize(("stage", "key", "value"), REFUSED)
def test_a_number_beyond_its_bound_is_refused(read, stage, key, value):
    extra = ["--value", "{model_name_or_path: runs/value}"] if key.startswith("value.") else []
    with pytest.raises(Refusal) as caught:
        read(stage, *extra, f"--{key}={value}")
    (finding,) = caught.value.findings
    assert (finding.code, finding.where) == ("out-of-range", f"--{key}")
    assert "outside its range: " in finding.message


def test_the_line_and_the_range_are_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(SFT + "  learning_rate: -0.001\n  max_steps: 0\n  adam_beta1: 1\n")
    with pytest.raises(Refusal) as caught:
        read_recipe(path)
    assert [(f.where, f.message) for f in caught.value.findings] == [
        (f"{path}:9", "train.learning_rate = -0.001 is outside its range: above 0"),
        (f"{path}:10", "train.max_steps = 0 is outside its range: at least -1 and not 0"),
        (f"{path}:11", "train.adam_beta1 = 1 is outside its range: at least 0 and below 1"),
    ]


def numbers(schema: dict, name: str = ""):
    """(name, schema) of every key whose value may be a number."""
    if {"integer", "number"} & set(types_of(schema)):
        yield name, schema
    for key, part in schema.get("properties", {}).items():
        yield from numbers(part, key)
    for part in [*schema.get("anyOf", []), schema.get("items")]:
        if isinstance(part, dict):
            yield from numbers(part, name)


def test_every_number_has_a_range():
    found = {name: part for stage in stage_names() for name, part in numbers(load_schema(stage))}
    unbounded = {name for name, part in found.items() if not set(part) & {"minimum", "exclusiveMinimum"}}
    assert unbounded == {"loss_weights"}  # a list: of losses that add up
    assert set(RANGES) <= set(found), "a range of a number that no recipe has"
