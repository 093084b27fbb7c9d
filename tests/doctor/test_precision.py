"""Precision: one owner, hardware that has it, and weights that can be trained in it."""

import json
from types import SimpleNamespace

import pytest
import torch

from lifecycle_recipes.doctor.recipe_level import precision
from lifecycle_recipes.doctor.recipe_level.precision import find_in_precision
from lifecycle_recipes.layouts.layout import Layout
from lifecycle_recipes.recipe.read import RawRecipe, hardware_defaults

GPU = Layout("ddp", 2, distributed_type="MULTI_GPU", name="ddp")


def recipe(layout: Layout | None = GPU, train=None, stage: str = "sft", **sections) -> RawRecipe:
    values = {"model": {"model_name_or_path": "parent"}, **sections, "train": train or {}}
    return RawRecipe("recipe.yaml", stage, values, "", [], "", layout=layout)


def layout(wanted: str | None, **fields) -> Layout:
    return Layout("ddp", 2, precision=wanted, name="mine", **fields)


def codes(raw: RawRecipe) -> list[str]:
    return [finding.code for finding in find_in_precision(raw)]


@pytest.mark.parametrize(
    ("asked", "train", "conflict"),
    [
        ("fp16", {"bf16": True}, True),
        ("fp16", {"fp16": True}, False),
        ("fp16", {"bf16": False}, False),
        ("bf16", {"bf16": False}, True),
        ("fp8", {"bf16": True}, True),
        ("no", {"bf16": True}, True),
        ("no", {}, False),
        (None, {"bf16": True}, False),
    ],
)
def test_the_precision_has_one_owner(monkeypatch, asked, train, conflict):
    monkeypatch.setattr(precision, "_fp8", lambda layout: [])
    assert codes(recipe(layout(asked), train)) == (["precision-conflict"] if conflict else [])


@pytest.mark.parametrize(
    ("asked", "train", "bf16", "fp16"),
    [
        (None, {}, True, False),
        (None, {"bf16": False}, False, False),
        (None, {"fp16": False}, True, False),
        ("fp16", {}, False, True),
        ("fp16", {"bf16": False}, False, True),
        ("fp8", {}, False, False),
        ("no", {}, False, False),
        ("bf16", {}, True, False),
    ],
)
def test_the_layouts_precision_reaches_the_trainer_else_the_hardwares(monkeypatch, asked, train, bf16, fp16):
    """On a GPU with bfloat16; bf16 left on by default would win over fp16 and fp8 (training_args.py)."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("transformers.utils.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    found = hardware_defaults(train, layout(asked))
    assert (found["bf16"], found["fp16"]) == (bf16, fp16)


@pytest.mark.parametrize("asked", ["no", "fp16", "fp8"])
def test_what_training_arguments_make_of_it(tmp_path, monkeypatch, asked):
    """transformers takes the launcher's variable where neither key is on."""
    from trl import SFTConfig

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    defaults = hardware_defaults({"use_cpu": True}, layout(asked))
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **defaults)
    assert args.mixed_precision == asked


def test_the_recipes_own_precision_is_left_alone():
    assert hardware_defaults({"bf16": True, "use_cpu": True}, layout("bf16")) == {}


@pytest.mark.parametrize(
    ("on", "train", "refused"),
    [
        (layout("fp16", cpu=True), {}, True),
        (layout(None, cpu=True), {"fp16": True}, True),
        (layout("fp16"), {}, False),
        (layout(None, cpu=True), {"bf16": True}, False),
        (Layout("deepspeed", 2, zero_stage=3, cpu=True), {"bf16": True}, True),
    ],
)
def test_what_a_cpu_cannot_compute_in(on, train, refused):
    assert codes(recipe(on, train)) == (["precision-on-cpu"] if refused else [])


@pytest.mark.parametrize(
    ("capability", "package", "backend", "message"),
    [
        ((9, 0), "torchao", None, None),
        ((10, 0), "transformer_engine", "TE", None),
        ((9, 0), "torchao", "TE", "transformer_engine, which is not installed"),
        ((8, 9), "torchao", None, "Hopper or newer"),
        ((8, 0), "torchao", None, "has 8.0"),
        (None, "torchao", None, "needs a GPU"),
        ((9, 0), "", None, "torchao or transformer_engine"),
    ],
)
def test_fp8_needs_hopper_and_a_package(monkeypatch, capability, package, backend, message):
    monkeypatch.setattr(precision, "gpu_capability", lambda: capability)
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: name == package or None)
    found = find_in_precision(recipe(layout("fp8", fp8_backend=backend)))
    assert [finding.code for finding in found] == ([] if message is None else ["fp8-unsupported"])
    assert message is None or message in found[0].message


def test_the_gpu_is_asked_without_torch(monkeypatch):
    said = SimpleNamespace(stdout="9.0\n9.0\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(precision.shutil, "which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(precision.subprocess, "run", lambda *a, **k: said)
    assert precision.gpu_capability() == (9, 0)
    said.stdout = "N/A\n"
    assert precision.gpu_capability() is None
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    assert precision.gpu_capability() is None


ZERO3 = Layout("deepspeed", 2, zero_stage=3)
FSDP2 = Layout("fsdp", 2, fsdp_version=2)


@pytest.mark.parametrize(
    ("model", "on", "train", "code"),
    [
        ({"dtype": "float16"}, GPU, {}, "fp16-weights"),
        ({"dtype": "float16"}, ZERO3, {"fp16": True}, None),
        ({"dtype": "float16", "use_peft": True}, GPU, {}, None),
        ({"dtype": "bfloat16"}, GPU, {}, "bf16-weights"),
        ({"dtype": "bfloat16"}, None, {"bf16": True}, "bf16-weights"),
        ({"dtype": "bfloat16", "use_peft": True}, GPU, {}, None),
        ({"dtype": "bfloat16", "load_in_4bit": True}, GPU, {}, None),
        ({"dtype": "bfloat16"}, ZERO3, {"bf16": True}, None),
        ({"dtype": "bfloat16"}, FSDP2, {"bf16": True}, None),
        ({"dtype": "bfloat16"}, FSDP2, {"bf16": False}, "bf16-weights"),
        ({"dtype": "float32"}, GPU, {"fp16": True}, None),
        ({}, GPU, {"bf16": True}, None),
    ],
)
def test_weights_that_are_trained_keep_their_precision(model, on, train, code):
    assert codes(recipe(on, train, model=model)) == ([code] if code else [])


def test_an_automatic_dtype_is_that_of_the_parent(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "float16"}))
    model = {"dtype": "auto", "model_name_or_path": str(tmp_path)}
    assert codes(recipe(model=model)) == ["fp16-weights"]
    assert codes(recipe(model=model | {"model_name_or_path": "owner/name"})) == []


def test_ppo_trains_its_value_model_too():
    reward = {"model_name_or_path": "rm", "dtype": "bfloat16"}
    assert codes(recipe(stage="ppo", reward=reward)) == ["bf16-weights"]
    value = {"model_name_or_path": "rm"}
    assert codes(recipe(stage="ppo", reward=reward, value=value)) == []
