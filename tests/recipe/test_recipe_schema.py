"""The shipped schemas are those of the installed versions, and the tables of names are true."""

import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
from recipe_text import SFT

from lifecycle_recipes.data.config import Source
from lifecycle_recipes.evals.config import EvaluateConfig
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe import names as recipe_names
from lifecycle_recipes.recipe import schema as recipe_schema
from lifecycle_recipes.recipe.read import hardware_defaults, load_recipe
from lifecycle_recipes.redact import is_secret
from lifecycle_recipes.stages.dpo import DPORecipe
from lifecycle_recipes.stages.pretrain import PretrainRecipe
from lifecycle_recipes.stages.sft import SFTRecipe

STAGES = recipe_schema.stage_names()


@pytest.fixture
def recipe(tmp_path):
    """Writes SFT with more lines for its `train` section; gives the path."""

    def write(train: str = "", text: str = SFT) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text.replace("runs/out", str(tmp_path / "out")) + textwrap.indent(train, "  "))
        return str(path)

    return write


def sections(stage: str) -> dict[str, dict]:
    properties = recipe_schema.load_schema(stage)["properties"]
    return {name: p.get("properties", {}) for name, p in properties.items()}


def all_keys() -> set[str]:
    return {key for stage in STAGES for keys in sections(stage).values() for key in keys}


# The files


@pytest.mark.parametrize("stage", STAGES)
def test_shipped_schema_is_what_the_dataclasses_give(stage):
    shipped = json.loads((recipe_schema.SHIPPED / f"{stage}.json").read_text())
    assert shipped == recipe_schema.make_schema(stage), "run python -m lifecycle_recipes.recipe.schema"


def test_every_stage_has_a_schema():
    stages = Path(recipe_schema.__file__).parents[1] / "stages"
    assert {p.stem for p in stages.glob("*.py") if p.stem[0] != "_"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_schema_is_strict_everywhere_and_its_defaults_fit(stage):
    from lifecycle_recipes.recipe.check import Checker
    from lifecycle_recipes.recipe.located_yaml import Located

    def located(value):
        if isinstance(value, dict):
            return Located({k: located(v) for k, v in value.items()}, "")
        return Located([located(v) for v in value] if isinstance(value, list) else value, "")

    def walk(schema):
        if "properties" in schema:
            assert schema["additionalProperties"] is False
        if "default" in schema:
            checker = Checker(stage, recipe_schema.load_schema, STAGES)
            checker.value(schema, located(schema["default"]), ("default",))
            assert not checker.findings
        for child in [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]:
            walk(child)
        if "items" in schema:
            walk(schema["items"])

    schema = json.loads((recipe_schema.SHIPPED / f"{stage}.json").read_text())
    walk(schema)
    assert set(schema["x-versions"]) == {"lifecycle-recipes", "transformers", "trl"}


def test_every_upstream_option_is_there_or_is_explained():
    for stage in STAGES:
        cls = recipe_schema.recipe_class(stage)
        train = recipe_schema.section_types(cls).get("train")
        if train is None:
            continue
        left_out = {f.name for f in fields(train) if f.init} - set(sections(stage)["train"])
        for key in left_out:
            explained = key in recipe_names.RENAMED or recipe_names.has_no_effect(stage, "train", key)
            assert explained or key == "hub_token", key


@pytest.mark.model
def test_other_versions_get_their_own_schemas_once(tmp_path, monkeypatch):
    """A stamp that is not installed: made in another process into a cache, read from there the next time."""
    code = (
        "import sys; from lifecycle_recipes.recipe import schema as s;"
        "real = s.installed_versions(); s.installed_versions = lambda: real | {'trl': '1.12.99'};"
        "print(s.schema_directory()); print(s.load_schema('sft')['title']); assert 'torch' not in sys.modules"
    )
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert "(once)" in first.stderr and "(once)" not in second.stderr
    assert first.stdout == second.stdout and "sft recipe" in first.stdout
    assert str(tmp_path) in first.stdout and "1.12.99" in first.stdout
    assert len(list(tmp_path.glob("lifecycle_recipes/*/*.json"))) == len(STAGES)


# The tables


def test_old_names_are_gone_and_new_names_exist():
    keys = all_keys()
    assert not keys & set(recipe_names.REMOVED)
    assert not keys & set(recipe_names.RENAMED)
    assert set(recipe_names.RENAMED.values()) <= keys


def test_keys_of_other_tools_are_not_ours_and_what_to_write_instead_is():
    tables = recipe_names.OTHER_TOOLS, recipe_names.RENAMED, recipe_names.REMOVED
    assert sum(map(len, tables)) == len(set().union(*tables)), "a key has one entry"
    train = {key for stage in STAGES for key in sections(stage).get("train", {})}
    assert not train & set(recipe_names.OTHER_TOOLS)
    ours = {f"{name}.{key}" for stage in STAGES for name, keys in sections(stage).items() for key in keys}
    ours |= {f"data.sources[].{f.name}" for f in fields(Source)}
    written = {
        key for text in recipe_names.OTHER_TOOLS.values() for key in re.findall(r"`([\w.\[\]]+)", text)
    }
    assert {key for key in written if "." in key} <= ours


def test_names_called_removed_are_no_upstream_fields():
    import trl
    from trl.experimental.ppo import PPOConfig

    classes = [trl.ModelConfig, trl.SFTConfig, trl.RewardConfig, trl.DPOConfig, trl.KTOConfig, PPOConfig]
    upstream = {name for c in classes for name in c.__dataclass_fields__}
    assert not upstream & set(recipe_names.REMOVED)
    assert upstream & set(recipe_names.RENAMED) == {"gradient_checkpointing", "gradient_checkpointing_kwargs"}
    secret = {name for name in upstream if is_secret(name)}
    assert secret == {"hub_token"}


def test_choices_are_upstreams():
    import trl.trainer.dpo_trainer as dpo
    import trl.trainer.sft_trainer as sft
    from peft import TaskType
    from transformers.debug_utils import DebugOption
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    choices = recipe_names.CHOICES
    assert set(choices["*", "report_to"]) == {"all", "none", *INTEGRATION_TO_CALLBACK}
    assert set(choices["ModelConfig", "lora_task_type"]) == {t.value for t in TaskType}
    assert set(choices["*", "debug"]) - {""} == {o.value for o in DebugOption}
    for source, key in ((dpo, "DPOConfig"), (sft, "SFTConfig")):
        compared = re.findall(r'\bloss_type == "(\w+)"', inspect.getsource(source))
        assert set(choices[key, "loss_type"]) == set(compared)
    assert all(f'"{c}"' in inspect.getsource(dpo) for c in choices["DPOConfig", "f_divergence_type"])


def test_choices_that_upstream_declares_reach_the_schema():
    train = sections("sft")["train"]
    assert train["packing_strategy"]["enum"] == ["bfd", "bfd_split", "wrapped"]
    assert train["eval_strategy"]["enum"] == ["no", "steps", "epoch"]
    assert "cosine" in train["lr_scheduler_type"]["enum"] and "adamw_torch" in train["optim"]["enum"]
    assert sections("ppo")["train"]["kl_estimator"]["enum"] == ["k1", "k3"]


# Building


def test_sections_become_their_dataclasses(recipe):
    from trl import ModelConfig, SFTConfig

    path = recipe("learning_rate: 2e-5\nactivation_checkpointing: false\n")
    built = load_recipe(SFTRecipe, [path, "--evaluate", "{tasks: [desk_facts], samples: 1}", "--replace"])
    assert type(built.model) is ModelConfig and type(built.train) is SFTConfig
    assert built.train.learning_rate == 2e-5 and built.train.activation_checkpointing is False
    assert built.data.sources[0].path == "a.jsonl" and built.data.sources[0].split == "train"
    assert built.evaluate == EvaluateConfig(tasks=["desk_facts"], samples=1)
    assert built.gate == [] and built.raw.flags == {"replace"} and built.raw.stage == "sft"


def test_optional_sections_and_free_mappings(recipe):
    text = """\
stage: pretrain
architecture:
  model_type: llama
  tokenizer: runs/tokenizer
  config: {hidden_size: 32, rope: {theta: 1e4}}
text: {block_size: 64}
data: {sources: [{path: a.jsonl}]}
train:
  output_dir: runs/out
"""
    built = load_recipe(PretrainRecipe, [recipe(text=text)])
    assert built.model is None and built.evaluate is None
    assert built.architecture.config == {"hidden_size": 32, "rope": {"theta": 1e4}}


def test_a_dpo_loss_is_a_name_or_a_list_of_names(recipe):
    text = SFT.replace("stage: sft", "stage: dpo")
    assert load_recipe(DPORecipe, [recipe("loss_type: ipo\n", text)]).train.loss_type == ["ipo"]
    assert load_recipe(DPORecipe, [recipe("loss_type: [sft, ipo]\n", text)]).train.loss_type == ["sft", "ipo"]


@pytest.mark.parametrize(
    ("train", "arguments", "line", "message"),
    [
        (
            "seed: 1\nload_best_model_at_end: true\n",
            [],
            10,
            "train: --load_best_model_at_end requires the save",
        ),
        ("save_steps: 1.5\n", [], 9, "train: --save_steps must be an integer"),
        ("fp16: true\nbf16: true\nuse_cpu: true\n", [], 9, "train: At most one of fp16 and bf16"),
        ("accelerator_config: none.json\n", [], 7, "train: [Errno 2] No such file"),
        ("", ["--load_in_4bit=true", "--load_in_8bit=true"], 2, "model: You can't use 8 bit and 4 bit"),
    ],
)
def test_what_upstream_rejects_is_a_refusal(recipe, train, arguments, line, message):
    path = recipe(train)
    with pytest.raises(Refusal) as caught:
        load_recipe(SFTRecipe, [path, *arguments])
    (finding,) = caught.value.findings
    assert finding.code == "bad-value" and finding.where == f"{path}:{line}"
    assert finding.message.startswith(message)


def test_the_recipe_of_another_stage_is_not_built(recipe):
    with pytest.raises(Refusal, match=r"\[other-stage\] .*:1: .*\bsft\b.*\bdpo\b"):
        load_recipe(DPORecipe, [recipe()])
    with pytest.raises(Refusal, match=r"\[missing-recipe\] no recipe given"):
        load_recipe(DPORecipe, [])


def test_precision_follows_the_hardware_unless_the_recipe_says(recipe, monkeypatch):
    import torch

    assert load_recipe(SFTRecipe, [recipe()]).train.bf16 == torch.cuda.is_available()
    monkeypatch.setattr("transformers.utils.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert hardware_defaults({}) == {"bf16": True, "fp16": False}
    assert hardware_defaults({"fp16": True}) == hardware_defaults({"bf16": True}) == {}
    neither = {"bf16": False, "fp16": False}
    assert hardware_defaults({"bf16": False}) == neither
    assert hardware_defaults({"use_cpu": True, "bf16": None}) == neither
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # what `accelerate launch` sets for a CPU layout
    assert hardware_defaults({}) == {"use_cpu": True, **neither}


def test_building_warns_of_nothing_the_recipe_did_not_write(recipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert load_recipe(SFTRecipe, [recipe()]).train.activation_checkpointing is True


def test_help_is_the_docstring_of_the_stage(capsys):
    with pytest.raises(SystemExit) as stopped:
        load_recipe(SFTRecipe, ["--help"])
    assert stopped.value.code == 0 and "lifecycle_recipes.stages.sft" in capsys.readouterr().out
