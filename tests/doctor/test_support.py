"""The support table: what it promises, what it refuses, and that the documentation says the same."""

import json
import re
from pathlib import Path

import pytest
import yaml
from preference_runs import LORA, write_recipe
from repository import ROOT

from lifecycle_recipes.doctor.recipe_level import layout_support as support
from lifecycle_recipes.doctor.recipe_level.layout_support import (
    LAYOUTS,
    METHODS,
    STAGES,
    TESTED,
    find_in_layout,
    table,
    verdict,
    write_table,
)
from lifecycle_recipes.layouts.layout import read_layout
from lifecycle_recipes.recipe.read import read_recipe

QLORA = LORA | {"load_in_4bit": True, "dtype": "bfloat16"}
SHARDABLE = QLORA | {"bnb_4bit_quant_storage": "bfloat16"}
CP = {"pad_to_multiple_of": 8}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def found(tmp_path):
    """(code, cure) of what a stage's recipe has against a layout, by name or as changes of a file."""

    def look(stage: str, layout, model=None, train=None, parent="parent") -> list[tuple[str, str]]:
        sections = {"model": model or {}, "train": train or {}}
        if stage == "ppo":
            sections["reward"] = {"model_name_or_path": "judge"}
        if stage == "pretrain":
            sections["text"] = {"block_size": 64}
        raw = read_recipe(write_recipe(tmp_path / stage, stage, [], parent, **sections))
        if not isinstance(layout, str):
            name, changes = layout
            layout = own_file(tmp_path, name, changes)
        return [(f.code, f"{f.message} | {f.fix}") for f in find_in_layout(raw, read_layout(layout))]

    return look


def own_file(folder: Path, name: str, changes: dict) -> str:
    """A user's own layout file: a shipped one with other keys (None takes one away), under another name."""
    config = yaml.safe_load((ROOT / f"accelerate_configs/{name}.yaml").read_text())
    for key, value in changes.items():
        section, _, inner = key.rpartition(".")
        target = config[section] if section else config
        target.pop(inner) if value is None else target.update({inner: value})
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_the_documentation_has_the_table_of_the_code(tmp_path):
    page = tmp_path / "layouts.md"
    page.write_text((ROOT / "docs/layouts.md").read_text())
    write_table(str(page))
    assert page.read_text() == (ROOT / "docs/layouts.md").read_text()
    assert table() in page.read_text()


def test_the_table_has_a_row_per_layout_and_three_marks_per_stage():
    rows = [line for line in table().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(LAYOUTS)
    for row in rows:
        cells = [cell.split() for cell in row.split("|")[2:-1]]
        assert len(cells) == len(STAGES) and all(len(cell) == len(METHODS) for cell in cells)


def test_what_is_said_to_be_tested_is_tested_and_not_refused():
    """tests/layouts/test_matrix.py runs what stands in TESTED, so the table cannot claim what no test runs."""
    matrix = (ROOT / "tests/layouts/test_matrix.py").read_text()
    assert "lifecycle_recipes.doctor.recipe_level.layout_support import" in matrix and "TESTED" in matrix
    for name, cells in TESTED.items():
        for stage, method in cells:
            assert verdict(stage, method, read_layout(name)).status in ("tested", "on-gpu"), (
                name,
                stage,
                method,
            )


def test_a_run_on_a_gpu_is_dated(monkeypatch):
    monkeypatch.setitem(support.ON_GPU, ("fsdp2", "sft", "full"), "2026-12-01")
    row = next(line for line in table().splitlines() if line.startswith("| `fsdp2` "))
    assert row.split("|")[3].split()[0] == "G"
    assert "fsdp2 sft full: 2026-12-01" in table()


@pytest.mark.parametrize(
    ("stage", "layout", "model", "train", "code", "word"),
    [
        ("ppo", "fsdp2", {}, {}, "layout-unsupported", "use zero3"),
        ("ppo", "hsdp", LORA, {}, "layout-unsupported", "use zero3"),
        ("dpo", "cp", {}, CP, "layout-unsupported", "cp supports only sft"),
        ("reward", "cp", {}, CP, "layout-unsupported", "last token"),
        ("pretrain", "cp", {}, {}, "layout-unsupported", "packed"),
        ("sft", "tp", LORA, {}, "layout-unsupported", "use fsdp2"),
        ("ppo", "tp", {}, {}, "layout-unsupported", "use zero3"),
        ("dpo", "one_gpu_fp8", {}, {}, "layout-unsupported", "without fp8"),
        ("sft", "fsdp2_fp8", LORA, {}, "layout-unsupported", "adapter"),
        ("sft", "zero3", QLORA, {}, "quant-storage", "bnb_4bit_quant_storage: bfloat16"),
        ("sft", "fsdp2", QLORA, {}, "quant-storage", "uint8 next to bfloat16"),
        ("sft", "fsdp2", SHARDABLE | {"dtype": "float16"}, {}, "quant-storage", "storage: float16"),
        ("dpo", "zero3", LORA | {"load_in_8bit": True}, {}, "quant-storage", "load_in_4bit"),
        ("sft", "fsdp2", {}, {"optim": "adamw_8bit"}, "layout-setting", "adamw_torch_fused"),
        ("sft", "fsdp2", {}, {"optim": "paged_adamw_32bit"}, "layout-setting", "adamw_torch_fused"),
        ("sft", "zero3_offload", {}, {"optim": "adafactor"}, "layout-setting", "CPUAdam"),
        ("sft", "cp", {"attn_implementation": "eager"}, CP, "layout-setting", "sdpa"),
        ("sft", "cp", {}, CP | {"packing": True, "max_length": 64}, "layout-setting", "packing: false"),
        ("sft", "cp", {}, CP | {"loss_type": "dft"}, "layout-setting", "chunked_nll"),
        ("sft", "cp", {}, {}, "layout-setting", "pad_to_multiple_of: 8"),
        ("sft", "cp", {}, {"pad_to_multiple_of": 12}, "layout-setting", "pad_to_multiple_of: 8"),
        ("sft", "zero3", {}, {"auto_find_batch_size": True}, "layout-setting", "zero2"),
        ("sft", ("cp", {"fsdp_config.fsdp_version": 1}), {}, CP, "layout-unsupported", "fsdp_version: 2"),
        ("sft", ("fsdp2", {"fsdp_config.fsdp_version": None}), {}, {}, "layout-unsupported", "FSDP 1"),
        (
            *("sft", ("fsdp2", {"fsdp_config.fsdp_state_dict_type": "LOCAL_STATE_DICT"}), {}, {}),
            *("layout-unsupported", "fsdp_state_dict_type: FULL_STATE_DICT"),
        ),
        (
            *("sft", ("one_gpu_fp8", {"fp8_config.enable_fsdp_float8_all_gather": True}), {}, {}),
            *("layout-unsupported", "cannot be saved"),
        ),
        ("sft", "tp", {}, {"save_strategy": "steps"}, "layout-setting", "save_only_model: true"),
        (
            *("sft", ("fsdp2", {"fsdp_config.fsdp_activation_checkpointing": True}), {}),
            *({"activation_checkpointing": True}, "layout-setting", "fsdp_activation_checkpointing: false"),
        ),
        ("sft", ("hsdp", {"num_processes": 6}), {}, {}, "layout-parallel", "--processes 8"),
        ("sft", ("cp", {"distributed_type": "MULTI_GPU"}), {}, CP, "layout-unsupported", "FSDP 2"),
        ("sft", ("ddp", {"distributed_type": "MEGATRON_LM"}), {}, {}, "layout-unsupported", "MEGATRON_LM"),
        (
            *("sft", ("zero2", {"parallelism_config": {"parallelism_config_sp_size": 2}}), {}, {}),
            *("layout-unsupported", "sequence parallelism"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_what_upstream_would_fail_at_or_do_silently_is_refused(
    found, stage, layout, model, train, code, word
):
    findings = found(stage, layout, model, train)
    assert [name for name, _ in findings] == [code]
    assert word in findings[0][1]


@pytest.mark.parametrize(
    ("stage", "layout", "model", "train"),
    [
        ("sft", "zero2", QLORA, {}),
        ("sft", "ddp", QLORA, {}),
        ("sft", "zero3", SHARDABLE, {}),
        ("dpo", "fsdp2", SHARDABLE, {}),
        ("dpo", "fsdp2", {}, {"optim": "adamw_torch_fused"}),
        ("kto", ("fsdp2", {"fsdp_config.fsdp_cpu_ram_efficient_loading": True}), {}, {}),
        ("sft", ("fsdp2", {"fsdp_config.fsdp_state_dict_type": "SHARDED_STATE_DICT"}), {}, {}),
        ("ppo", "zero3", {}, {}),
        ("sft", "zero3", {}, {"optim": "adamw_8bit"}),
        ("sft", "zero3_offload", {}, {"optim": "adamw_torch"}),
        ("sft", "cp", {}, CP),
        ("sft", "tp", {}, {"save_only_model": True}),
        ("dpo", "tp", {}, {"save_strategy": "no"}),
        ("sft", "hsdp", {}, {}),
        ("sft", "fsdp2_fp8", {}, {}),
        ("sft", "one_gpu_fp8", {}, {}),
        ("reward", "multi_node_zero3", LORA, {}),
        ("pretrain", "fsdp2", {}, {}),
    ],
)
def test_what_runs_is_not_refused(found, stage, layout, model, train):
    assert found(stage, layout, model, train) == []


@pytest.mark.parametrize(
    ("layout", "config", "word"),
    [
        ("tp", {"num_attention_heads": 6, "num_key_value_heads": 2}, "6 attention heads | use a tp_size"),
        ("tp", {"num_attention_heads": 8, "num_key_value_heads": 2}, "2 key value heads"),
        ("tp", {"num_attention_heads": 8, "num_key_value_heads": 4}, None),
        ("cp", {"sliding_window": 4096}, "full attention"),
        ("cp", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ("cp", {"layer_types": ["full_attention"], "sliding_window": 4096}, None),
        ("cp", {"text_config": {"sliding_window": 4096}}, "full attention"),
    ],
)
def test_the_model_itself_is_looked_at(found, tmp_path, layout, config, word):
    (tmp_path / "config.json").write_text(json.dumps(config))
    findings = found("sft", layout, train=CP, parent=str(tmp_path))
    assert [code for code, _ in findings] == (["layout-setting"] if word else [])
    assert word is None or word in findings[0][1]


def test_a_refusal_is_one_line_with_its_cure_and_its_place(tmp_path):
    raw = read_recipe(write_recipe(tmp_path, "ppo", [], "parent", reward={"model_name_or_path": "judge"}))
    (finding,) = find_in_layout(raw, read_layout("fsdp2"))
    text = str(finding)
    assert len(text.splitlines()) == 2 and "fsdp2" in text and finding.fix
    assert finding.where.startswith(raw.path + ":")


NAMED = re.compile(r"^# Layout: (\w+)", re.M)
SHIPPED = [path for path in sorted(ROOT.glob("recipes/*/*.yaml")) if NAMED.search(path.read_text())]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_recipe_runs_on_the_layout_it_names(path):
    layout = read_layout(NAMED.search(path.read_text())[1])
    assert find_in_layout(read_recipe(path), layout) == []


def test_stages_without_a_trainer_have_no_layout(tmp_path):
    recipe = read_recipe(ROOT / "recipes/desk/02-tokenizer.yaml")
    assert find_in_layout(recipe, read_layout("fsdp2")) == []
