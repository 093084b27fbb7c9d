"""Several runs exported as one: the mean, or PEFT's combination; models that do not fit together are refused."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file
from saved_adapters import save_adapter

from lifecycle_recipes.cli import main as lifecycle
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.quantised_base import DEFAULTS
from lifecycle_recipes.publish.combine import combine_adapters
from lifecycle_recipes.publish.config import ExportedModel, Sibling
from lifecycle_recipes.publish.source import find_source


def other_run(model: Path, path: Path, noise: float = 0.02) -> Path:
    """The same model with other weights, as another seed would have trained it."""
    import torch

    shutil.copytree(model, path)
    torch.manual_seed(5)
    weights = load_file(path / "model.safetensors")
    moved = {name: w + noise * torch.randn_like(w) for name, w in weights.items()}
    save_file(moved, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.fixture
def errors(tmp_path, capsys):
    """What `lifecycle check` prints about a model section."""

    def check(first, **model) -> str:
        recipe = {
            "stage": "export",
            "model": {"model_name_or_path": str(first)} | model,
            "export": {"output_dir": str(tmp_path / "out")},
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        with pytest.raises(SystemExit):
            lifecycle(["check", str(tmp_path / "r.yaml")])
        found = capsys.readouterr()
        return found.out + found.err

    return check


def with_changes(start: Path, path: Path, file: str, **changes) -> Path:
    shutil.copytree(start, path)
    values = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(values | changes))
    return path


def test_the_average_has_the_mean_of_all_weights(export, chat_model, tmp_path, capsys):
    other, third = other_run(chat_model, tmp_path / "b"), other_run(chat_model, tmp_path / "c", 0.05)
    siblings = [{"path": str(other), "weight": 0.5}, {"path": str(third), "weight": 0.5}]
    model = {"model_name_or_path": str(chat_model), "weight": 3.0, "average": siblings}
    status, out, record = export(model)
    found = record["export"]
    assert status == 0 and found["parity"]["merged"]["max_difference"] < 1e-4
    assert found["combined"] == {
        "by": "average",
        "weights": {str(chat_model): 3.0, str(other): 0.5, str(third): 0.5},
    }
    one, two, three, mean = (
        load_file(path / "model.safetensors") for path in (chat_model, other, third, out)
    )
    for name, weights in mean.items():
        wanted = 0.75 * one[name] + 0.125 * two[name] + 0.125 * three[name]
        assert (weights - wanted).abs().max() < 1e-6, name
    assert [parent["path"] for parent in record["parents"].values()] == [
        str(chat_model),
        str(other),
        str(third),
    ]
    with pytest.raises(SystemExit):
        lifecycle(["lineage", str(out)])
    assert f"sibling {other}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        lifecycle(["push", str(out), "--repo", "me/soup", "--license", "mit", "--dry-run"])
    assert "It is the average of model (3), b (0.5), c (0.5)." in capsys.readouterr().out
    # Other weights of a sibling make another run.
    other_run(chat_model, tmp_path / "fresh", 0.1)
    shutil.copy(tmp_path / "fresh/model.safetensors", other)
    assert export(model)[0] == 2
    assert f"the weights of the sibling parent {other} have changed" in capsys.readouterr().err


def test_an_average_that_is_written_wrongly_is_found_out(export, chat_model, tmp_path, monkeypatch, capsys):
    from lifecycle_recipes.publish import export as export_module

    other = other_run(chat_model, tmp_path / "b")
    merge = export_module.merged

    def first_only(source, dtype):
        from dataclasses import replace

        return merge(replace(source, average=()), dtype)

    monkeypatch.setattr(export_module, "merged", first_only)
    status, *_ = export({"model_name_or_path": str(chat_model), "average": [{"path": str(other)}]})
    assert status == 1 and "[export-differs]" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cat", "dare_ties"])
def test_combined_adapters_are_exported_as_peft_combines_them(export, chat_model, tmp_path, kind):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one = save_adapter(chat_model, tmp_path / "one")
    two = save_adapter(chat_model, tmp_path / "two", seed=8)
    model = {
        "model_name_or_path": str(one),
        "adapters": [{"path": str(two), "weight": 0.25}],
        "combination_type": kind,
    }
    status, out, record = export(model | ({"density": 0.5} if kind != "cat" else {}))
    assert status == 0 and record["export"]["parity"]["merged"]["max_difference"] < 1e-4
    assert record["export"]["combined"]["by"] == kind and not list(out.glob("**/adapter*"))
    if kind != "cat":
        return
    base = load_file(chat_model / "model.safetensors")
    parts = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(chat_model), path)
        .merge_and_unload()
        .state_dict()
        for path in (one, two)
    ]
    for name, weights in load_file(out / "model.safetensors").items():
        wanted = base[name] + (parts[0][name] - base[name]) + 0.25 * (parts[1][name] - base[name])
        assert (weights - wanted).abs().max() < 1e-5, name


def test_what_dare_drops_is_the_same_each_time(chat_model, tmp_path):
    one = save_adapter(chat_model, tmp_path / "one")
    two = save_adapter(chat_model, tmp_path / "two", seed=8)
    model = ExportedModel(str(one), adapters=[Sibling(str(two))], combination_type="dare_linear", density=0.5)
    source = find_source(model)
    seeds = {"a": 1, "b": 1, "c": 7}
    made = [combine_adapters(source, model, tmp_path / name, seed).path for name, seed in seeds.items()]
    first, again, other = (Path(path, "adapter_model.safetensors").read_bytes() for path in made)
    assert first == again != other


def test_models_that_are_no_siblings_are_not_averaged(errors, chat_model, tmp_path):
    def average(path) -> str:
        return errors(chat_model, average=[{"path": str(path)}])

    wide = with_changes(chat_model, tmp_path / "wide", "config.json", num_attention_heads=8)
    assert "[siblings-differ]" in average(wide) and "has num_attention_heads 8" in average(wide)
    named = with_changes(chat_model, tmp_path / "q", "config.json", architectures=["Qwen3ForCausalLM"])
    assert "is a Qwen3ForCausalLM" in average(named)
    tokens = json.loads((chat_model / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    (a, i), (b, j) = list(vocabulary.items())[-2:]
    swapped = tokens["model"] | {"vocab": vocabulary | {a: j, b: i}}
    other = with_changes(chat_model, tmp_path / "t", "tokenizer.json", model=swapped)
    assert "has other ids for 2 tokens" in average(other)
    shutil.copytree(chat_model, tmp_path / "other")
    template = tmp_path / "other/chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    assert "has another chat template" in average(tmp_path / "other")
    adapter = save_adapter(chat_model, tmp_path / "adapter")
    assert "is an adapter" in average(adapter)
    assert "is named twice" in average(chat_model)
    missing = average(tmp_path / "none")
    assert "[parent-missing]" in missing and "r.yaml:5" in missing  # the line of the sibling
    assert "[not-exportable]" in errors(chat_model, average=[{"path": "owner/model"}])


@pytest.mark.parametrize(
    ("lora", "kind", "reason"),
    [
        ({"r": 2}, "linear", "has the rank 2"),
        ({"r": 2}, "cat", None),
        ({"use_rslora": True}, "cat", "uses rsLoRA"),
        ({"use_dora": True}, "cat", "uses DoRA"),
        ({"layers_to_transform": [0], "target_modules": ["q_proj"]}, "cat", "has layers_to_transform [0]"),
        ({"modules_to_save": ["lm_head"]}, "cat", "modules that were trained whole"),
        ({"target_modules": ".*q_proj"}, "cat", "names its target_modules in another way"),
        (
            {"init_lora_weights": "pissa"},
            "cat",
            "init_lora_weights: pissa, which changes the weights of its base",
        ),
        ({"init_lora_weights": "olora"}, "svd", "init_lora_weights: olora, which changes"),
        ({"init_lora_weights": "mica"}, "cat", "init_lora_weights: mica"),
        ({"init_lora_weights": "orthogonal"}, "cat", None),
        ({"alora_invocation_tokens": [5, 6]}, "cat", "(aLoRA)"),
        ({"layer_replication": [(0, 2), (0, 2)]}, "cat", "repeats layers of its base"),
        ({"rank_pattern": {"q_proj": 4}}, "linear", "a rank_pattern, {'q_proj': 4}: linear needs one rank"),
        ({"rank_pattern": {"q_proj": 8}}, "dare_linear", "a rank_pattern"),
        ({"rank_pattern": {"q_proj": 8}}, "cat", None),
    ],
)
def test_adapters_that_peft_does_not_combine(errors, chat_model, tmp_path, lora, kind, reason):
    one = save_adapter(chat_model, tmp_path / "one")
    two = save_adapter(chat_model, tmp_path / "two", lora=lora)
    density = {"density": 0.5} if kind.startswith("dare") else {}
    for first, second in ((one, two), (two, one)):
        found = errors(first, adapters=[{"path": str(second)}], combination_type=kind, **density)
        assert (
            "[siblings-differ]" in found or "[not-exportable]" in found if reason else "error [" not in found
        )
        assert reason is None or reason.removeprefix("has ") in found or first == two


def test_adapters_that_change_their_base_are_not_combined_even_without_the_check(chat_model, tmp_path):
    """PEFT only warns: each of them changes the base while it is loaded."""
    one, two = (
        save_adapter(chat_model, tmp_path / name, seed, {"init_lora_weights": "pissa"})
        for seed, name in enumerate(("one", "two"))
    )
    model = ExportedModel(str(one), adapters=[Sibling(str(two))])
    with pytest.raises(Refusal) as refused:
        combine_adapters(find_source(model), model, tmp_path / "out", 1)
    assert [f.code for f in refused.value.findings] == ["siblings-differ"]
    assert "changes the weights of their base" in str(refused.value)


def test_a_combination_that_is_not_the_sum_is_found_out(chat_model, tmp_path, monkeypatch):
    """rsLoRA, which the check refuses: PEFT scales the sum by the root of the rank."""
    one, two = (
        save_adapter(chat_model, tmp_path / name, seed, {"use_rslora": True})
        for seed, name in enumerate(("one", "two"))
    )
    model = ExportedModel(str(one), adapters=[Sibling(str(two))])
    with pytest.raises(Refusal) as refused:
        combine_adapters(find_source(model), model, tmp_path / "out", 1)
    assert [f.code for f in refused.value.findings] == ["export-differs"] and refused.value.status == 1


def test_what_peft_cannot_combine_ends_with_its_reason(chat_model, tmp_path):
    one = save_adapter(chat_model, tmp_path / "one", lora={"rank_pattern": {"q_proj": 8}})
    two = save_adapter(chat_model, tmp_path / "two", lora={"r": 8})
    model = ExportedModel(str(one), adapters=[Sibling(str(two))], combination_type="linear")
    with pytest.raises(Refusal, match="siblings-differ.*PEFT does not combine"):
        combine_adapters(find_source(model), model, tmp_path / "out", 1)


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        (
            {"load_in_4bit": True},
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "dtype": "float32"},
            None,
        ),
        ({"load_in_4bit": True}, {"load_in_4bit": True, "dtype": "bfloat16"}, "dtype bfloat16, not float32"),
        (
            {"load_in_4bit": True},
            {"load_in_4bit": True, "use_bnb_nested_quant": True},
            "use_bnb_nested_quant True",
        ),
        ({"load_in_4bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "fp4, not nf4"),
        ({"load_in_8bit": True}, {"load_in_8bit": True, "use_bnb_nested_quant": True}, None),
        ({"load_in_4bit": True}, {"load_in_8bit": True}, "in another way"),
    ],
)
def test_bases_are_the_same_if_they_were_quantised_alike(
    errors, chat_model, tmp_path, first, second, differs
):
    one, two = (save_adapter(chat_model, tmp_path / n, **how) for n, how in (("1", first), ("2", second)))
    found = errors(one, adapters=[{"path": str(two)}])
    assert ("[siblings-differ]" in found and differs in found) if differs else "error [" not in found


def test_the_defaults_of_quantisation_are_those_of_trl():
    from trl import ModelConfig

    assert {key: getattr(ModelConfig(), key) for key in DEFAULTS} == DEFAULTS
    others = {name for name in vars(ModelConfig()) if "bit" in name or "bnb" in name}
    assert others <= set(DEFAULTS)


def test_adapters_of_other_bases_are_not_combined(errors, chat_model, tmp_path):
    one = save_adapter(chat_model, tmp_path / "one")
    away = save_adapter(other_run(chat_model, tmp_path / "base"), tmp_path / "two")
    assert f"was trained on {tmp_path / 'base'}" in errors(one, adapters=[{"path": str(away)}])
    shutil.copytree(chat_model, tmp_path / "copy")  # the same weights elsewhere are the same base
    near = save_adapter(tmp_path / "copy", tmp_path / "three")
    assert "error [" not in errors(one, adapters=[{"path": str(near)}])
    quantised = save_adapter(chat_model, tmp_path / "four", load_in_4bit=True)
    assert "quantised in another way" in errors(one, adapters=[{"path": str(quantised)}])


def test_keys_of_a_combination_that_have_no_effect(errors, chat_model, tmp_path):
    one, two = (save_adapter(chat_model, tmp_path / name) for name in ("one", "two"))
    adapters = [{"path": str(two)}]
    assert "needs model.density" in errors(one, adapters=adapters, combination_type="ties")
    assert "[no-effect]" in errors(one, adapters=adapters, density=0.5)
    assert "[no-effect]" in errors(one, adapters=adapters, svd_rank=4)
    assert "remove model.svd_rank" in errors(one, adapters=adapters, svd_rank=4)
    assert "model.weight has no effect without model.average" in errors(chat_model, weight=2.0)
    assert "both given" in errors(one, adapters=adapters, average=adapters)
    assert "[out-of-range]" in errors(one, adapters=[{"path": str(two), "weight": 0.0}])


@pytest.mark.slow
def test_reward_models_are_averaged_with_their_heads(export, tiny_reward_dir, tmp_path):
    first = Path(tiny_reward_dir)
    other = other_run(first, tmp_path / "b")
    model = {"model_name_or_path": str(first), "average": [{"path": str(other)}]}
    status, out, record = export(model)
    assert status == 0 and record["export"]["parity"]["merged"]["max_difference"] < 1e-5
    one, two, mean = (load_file(path / "model.safetensors") for path in (first, other, out))
    assert (mean["score.weight"] - (one["score.weight"] + two["score.weight"]) / 2).abs().max() < 1e-6


@pytest.mark.slow
def test_qlora_adapters_are_combined_on_the_base_that_they_saw(export, chat_model, tmp_path):
    settings = {"load_in_4bit": True, "dtype": "float32"}
    one = save_adapter(chat_model, tmp_path / "one", **settings)
    two = save_adapter(chat_model, tmp_path / "two", seed=8, **settings)
    status, _, record = export({"model_name_or_path": str(one), "adapters": [{"path": str(two)}]})
    found = record["export"]
    assert status == 0 and found["base"].startswith("dequantised")
    assert found["parity"]["merged"]["agreement"] == 1 and found["parity"]["merged"]["max_difference"] < 0.05
