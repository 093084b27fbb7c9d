"""Forms of torchao and GPTQModel: made and loaded again in a new process, and what a check refuses of them."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from repository import ROOT
from safetensors import safe_open

from lifecycle_recipes.cli import main as lifecycle
from lifecycle_recipes.models.load import load_tokenizer
from lifecycle_recipes.publish.calibrated import group_size, write_calibrated
from lifecycle_recipes.publish.calibration_rows import calibration_ids, row_text
from lifecycle_recipes.publish.config import CALIBRATED, ExportConfig
from lifecycle_recipes.publish.parity import load_form

needs_gptqmodel = pytest.mark.skipif(
    not (find_spec("gptqmodel") and find_spec("optimum")), reason="needs gptqmodel and optimum"
)


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rows(tmp_path, tiny_chat_rows) -> Path:
    return write_rows(tmp_path / "rows.jsonl", tiny_chat_rows)


def test_torchao_forms_are_safetensors_and_load_again(export, chat_model):
    forms = ["torchao-int8", "torchao-fp8"]
    status, out, record = export(chat_model, forms=forms, agreement=dict.fromkeys(forms, 0.5))
    assert status == 0
    parity, sizes = record["export"]["parity"], record["export"]["bytes"]
    for form, kind in zip(forms, ("I8", "F8_E4M3"), strict=True):
        assert parity[form]["max_difference"] > 0 and not parity[form]["differs"]
        assert sizes[form] < sizes["merged"] and not list((out / form).glob("*.bin"))
        with safe_open(out / form / "model.safetensors", framework="pt") as weights:
            held = weights.get_slice("model.layers.0.mlp.up_proj._weight_qdata").get_dtype()
            assert held == kind, form
        weight = load_form(form, out / form).model.model.layers[0].mlp.up_proj.weight
        assert type(weight).__name__ == {"I8": "Int8Tensor", "F8_E4M3": "Float8Tensor"}[kind]
    assert parity["torchao-int8"]["max_difference"] < parity["torchao-fp8"]["max_difference"]


@pytest.mark.slow
@needs_gptqmodel
@pytest.mark.parametrize("form", CALIBRATED)
def test_calibrated_forms_load_again(export, chat_model, rows, form):
    status, out, record = export(
        chat_model, forms=[form], calibration=str(rows), calibration_rows=8, agreement={form: 0.1}
    )
    assert status == 0 and not record["export"]["parity"][form]["differs"]
    assert record["export"]["bytes"][form] < record["export"]["bytes"]["merged"]
    assert record["inputs"][str(rows)]
    assert record["calibration"]["rows"] == 8 and record["calibration"]["tokens"] > 80


def test_what_gptqmodel_cannot_do_is_named(chat_model, rows, tmp_path, monkeypatch, capsys):
    """Here without the package itself: its process ends with an error."""
    from lifecycle_recipes.finding import Refusal

    (tmp_path / "site/gptqmodel").mkdir(parents=True)
    (tmp_path / "site/gptqmodel/__init__.py").write_text("raise ValueError('no such layer')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{ROOT / 'src'}")
    with pytest.raises(Refusal) as refused:
        write_calibrated(str(chat_model), "gptq", tmp_path, [[1, 2, 3]])
    assert refused.value.findings[0].code == "calibration-failed" and "no such layer" in str(refused.value)


def test_calibration_rows_are_a_seeded_sample_in_the_form_of_training(chat_model, rows, tiny_chat_rows):
    config = ExportConfig("x", calibration=str(rows), calibration_rows=3)
    ids = calibration_ids(str(chat_model), config)
    assert len(ids) == 3 and ids == calibration_ids(str(chat_model), config)
    config.seed = 1
    assert ids != calibration_ids(str(chat_model), config)
    tokenizer = load_tokenizer(str(chat_model))
    whole = row_text(tokenizer, tiny_chat_rows[0])
    assert whole == tokenizer.apply_chat_template(tiny_chat_rows[0]["messages"], tokenize=False)
    user, assistant = tiny_chat_rows[0]["messages"][1:3]
    assert row_text(tokenizer, {"prompt": [user], "completion": assistant["content"]}) == row_text(
        tokenizer, {"messages": [user, assistant]}
    )
    assert row_text(tokenizer, {"text": "As it is"}) == "As it is"
    assert row_text(tokenizer, {"prompt": "Two ", "completion": "parts"}) == "Two parts"
    assert group_size({"hidden_size": 4096, "intermediate_size": 12288}) == 128
    assert group_size({"hidden_size": 576, "intermediate_size": 1536}) == 32  # SmolLM2-135M


def test_a_check_names_what_calibrated_forms_lack(chat_model, rows, tmp_path, monkeypatch, capsys):
    def errors(**settings) -> str:
        export = {"output_dir": str(tmp_path / "out"), "forms": ["gptq"]} | settings
        recipe = {"stage": "export", "model": {"model_name_or_path": str(chat_model)}, "export": export}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        with pytest.raises(SystemExit):
            lifecycle(["check", str(tmp_path / "r.yaml")])
        found = capsys.readouterr()
        return found.out + found.err

    assert "export.calibration names none" in errors()
    assert "[missing-file]" in errors(calibration=str(tmp_path / "none.jsonl"))
    count = len(rows.read_text().splitlines())
    assert "bad-value" not in errors(calibration=str(rows), calibration_rows=count)
    assert f"has {count} rows, and export.calibration_rows is {count + 1}" in errors(
        calibration=str(rows), calibration_rows=count + 1
    )
    assert "[no-effect]" in errors(forms=["int8"], calibration=str(rows))
    assert "is export.prompts" in errors(calibration=str(rows), prompts=str(rows))
    other = write_rows(tmp_path / "other.jsonl", [{"question": "Who?"}])
    assert "[bad-row]" in errors(calibration=str(other), calibration_rows=1)
    absent = "lifecycle_recipes.doctor.recipe_level.export.find_spec"
    monkeypatch.setattr(absent, lambda package: None if package in ("gptqmodel", "torchao") else True)
    assert "lifecycle-recipes[gptq]" in errors(calibration=str(rows))
    assert "lifecycle-recipes[publish]" in errors(forms=["torchao-fp8"])


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?"},
        {"text": None},
        {"text": 5},
        {"messages": []},
        {"messages": "Hello"},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user"}, {"role": "assistant", "content": ["x"]}]},
        {"prompt": None},
        {"prompt": [{"role": "user", "content": "x"}], "completion": 3},
    ],
)
def test_every_calibration_row_is_checked(chat_model, tmp_path, capsys, row):
    good = {"messages": [{"role": "user", "content": "Hello"}]}
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": ""}, {"prompt": "a"}, good, row, good])
    export = {"output_dir": str(tmp_path / "out"), "forms": ["gptq"], "calibration_rows": 5}
    recipe = {"stage": "export", "model": {"model_name_or_path": str(chat_model)}}
    recipe["export"] = export | {"calibration": str(rows)}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit):
        lifecycle(["check", str(tmp_path / "r.yaml")])
    shown = capsys.readouterr()
    assert f"error [bad-row] {rows}:4: " in shown.out + shown.err and "failed" not in shown.out + shown.err


def test_rows_that_appear_after_the_check_are_refused_before_anything_is_written(
    export, chat_model, tmp_path, monkeypatch, capsys
):
    """The file of an earlier recipe of the same command; the check of the recipe is left out here."""
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "good"}, {"text": None}])
    monkeypatch.setattr("lifecycle_recipes.doctor.recipe_level.export._find_in_calibration", lambda *_: [])
    monkeypatch.setattr("lifecycle_recipes.doctor.recipe_level.export.find_spec", lambda package: True)
    status, out, record = export(chat_model, forms=["gptq"], calibration=str(rows), calibration_rows=2)
    shown = capsys.readouterr().err
    assert status == 2 and f"[bad-row] {rows}:2" in shown and not list(out.glob("*.safetensors"))
    rows.write_text(
        '{"messages": [{"role": "assistant", "content": "x"}, {"role": "odd", "content": "y"}]}\n'
    )
    assert export(chat_model, forms=["gptq"], calibration=str(rows), calibration_rows=1)[0] == 2
    assert "[bad-row]" in capsys.readouterr().err
