"""Pruned copies of an export: exact zeros in safetensors, their figures in the record, floors that do not apply."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lifecycle_recipes.cli import main as lifecycle
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.publish.config import PruneConfig
from lifecycle_recipes.publish.pruning import (
    count_zeros,
    find_in_pruning,
    linear_layers,
    prune_smallest,
    prune_two_of_four,
    require_linear,
    write_pruned,
)
from lifecycle_recipes.recipe.read import read_recipe
from lifecycle_recipes.report.card import card
from lifecycle_recipes.stages.export import main


@pytest.fixture
def model(chat_model):
    """Tied embeddings, so that a pruned head would spoil the embedding."""
    config = json.loads((chat_model / "config.json").read_text())
    (chat_model / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return AutoModelForCausalLM.from_pretrained(chat_model)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.model
def test_the_smallest_of_every_layer_become_zero_and_nothing_else_moves(model):
    before = weights(model)
    prune_smallest(model, 0.7, "layer")
    after, linear = weights(model), {f"{name}.weight" for name in linear_layers(model)}
    assert list(after) == list(before) and len(linear) == 14  # 7 in each of 2 layers, not the head
    for name, weight in after.items():
        gone = weight == 0
        if name not in linear:
            assert torch.equal(weight, before[name])
            continue
        assert int(gone.sum()) == round(0.7 * weight.numel())
        assert torch.equal(weight[~gone], before[name][~gone])
        assert before[name][gone].abs().max() <= before[name][~gone].abs().min()


@pytest.mark.model
def test_globally_the_smallest_of_all_layers_become_zero(model):
    with torch.no_grad():
        linear_layers(model)["model.layers.0.mlp.up_proj"].weight.mul_(0.01)
    prune_smallest(model, 0.5, "global")
    found = count_zeros(model)
    assert found["linear"] == pytest.approx(0.5, abs=1e-4) and found["model"] < 0.5
    assert (
        found["layers"]["model.layers.0.mlp.up_proj"] == 1 != found["layers"]["model.layers.0.mlp.gate_proj"]
    )


@pytest.mark.model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_two_largest_of_four_stay(model, dtype):
    model.to(dtype)
    before = weights(model)
    prune_two_of_four(model)
    for name, layer in linear_layers(model).items():
        was, now = (w.view(-1, 4) for w in (before[f"{name}.weight"], layer.weight))
        assert torch.equal((now != 0).sum(-1), torch.full((len(now),), 2))
        kept = now != 0
        assert torch.equal(now[kept], was[kept]) and layer.weight.dtype == dtype
        largest = was.abs().sort(-1).values
        assert torch.equal(now.abs().sort(-1).values[:, 2:], largest[:, 2:])


@pytest.mark.model
def test_a_study_of_levels_is_recorded_and_fails_nothing(chat_model, tmp_path, capsys):
    out = tmp_path / "exported"
    recipe = {
        "stage": "export",
        "model": {"model_name_or_path": str(chat_model)},
        "export": {"output_dir": str(out), "max_new_tokens": 8, "agreement": {"merged": 0.9}},
        "prune": {"levels": [0.3, 0.95], "two_of_four": True},
        "gate": ["pruned-95.agreement >= 0.99", "pruned-30.sparsity >= 0.29"],
    }
    file = tmp_path / "export.yaml"
    file.write_text(yaml.safe_dump(recipe))
    main([str(file)])
    record = json.loads((out / "run.json").read_text())
    pruning, metrics, sizes = record["pruning"], record["metrics"], record["export"]["bytes"]
    assert record["status"] == "done" and metrics["pruned-95.agreement"] < 0.8  # far below any floor
    assert metrics["pruned-30.sparsity"] == pytest.approx(0.3, abs=1e-4)
    assert pruning["pruned-2of4"]["zeros"]["linear"] == 0.5 and pruning["merged"]["zeros"]["linear"] == 0
    assert len(pruning["pruned-95"]["zeros"]["layers"]) == 14
    assert all(pruning[form]["seconds"] > 0 for form in ("merged", "pruned-30", "pruned-95", "pruned-2of4"))
    # Zeros save nothing on disk, and are there for everybody who reads the file.
    assert sizes["pruned-95"] == pytest.approx(sizes["merged"], rel=0.01)
    saved, whole = (load_file(place / "model.safetensors") for place in (out / "pruned-2of4", out))
    for name, weight in saved.items():
        if "_proj" in name:
            assert int((weight == 0).sum()) == weight.numel() / 2
        else:
            assert torch.equal(weight, whole[name])
    loaded = AutoModelForCausalLM.from_pretrained(out / "pruned-2of4")
    assert count_zeros(loaded) == pruning["pruned-2of4"]["zeros"]
    shown = card([str(out)])
    assert "zeros" in shown and "0.950" in shown and "replies of 8 tokens" in shown
    # A gate line is what decides about a copy.
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        lifecycle(["gate", str(out)])
    assert end.value.code == 3 and "pruned-95.agreement" in capsys.readouterr().out
    push = ["push", str(out), "--repo", "me/small", "--license", "mit", "--form", "pruned-2of4", "--dry-run"]
    with pytest.raises(SystemExit):
        lifecycle([*push, "--allow-failed-gate"])
    assert "50.0% of the weights of its linear layers are zero" in capsys.readouterr().out


@pytest.mark.model
def test_a_floor_that_the_recipe_gives_holds_for_a_copy(chat_model, tmp_path, capsys):
    file, out = tmp_path / "export.yaml", tmp_path / "exported"
    recipe = {
        "stage": "export",
        "model": {"model_name_or_path": str(chat_model)},
        "export": {"output_dir": str(out), "max_new_tokens": 4, "agreement": {"pruned-95": 0.99}},
        "prune": {"levels": [0.95]},
    }
    file.write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit) as end:
        main([str(file)])
    assert end.value.code == 1
    assert f"[export-differs] {out}/pruned-95: pruned-95 chooses" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gpt2"}, "the family gpt2"),
        ({"num_local_experts": 8}, "its experts"),
        ({"text_config": {"n_routed_experts": 4}}, "its experts"),
        ({"model_type": "ernie4_5_moe", "moe_num_experts": 64}, "its experts"),
        ({"model_type": "dbrx", "ffn_config": {"moe_num_experts": 4}}, "its experts"),
        ({"intermediate_size": 126}, "intermediate_size is 126"),
    ],
)
def test_what_cannot_be_pruned(chat_model, change, reason):
    assert find_in_pruning(str(chat_model), True) is None
    config = json.loads((chat_model / "config.json").read_text())
    (chat_model / "config.json").write_text(json.dumps(config | change))
    assert reason in find_in_pruning(str(chat_model), True)[0]
    assert (find_in_pruning(str(chat_model), False) is None) == ("size" in reason)


@pytest.mark.model
def test_a_model_whose_experts_have_another_name_is_refused_by_its_weights(chat_model, tmp_path):
    """Experts that transformers keeps in one parameter, whatever its config calls them."""
    from transformers import AutoConfig, AutoTokenizer

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "num_local_experts": 8, "vocab_size": 400}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **sizes))
    with pytest.raises(Refusal, match=r"not-prunable.*linear layers hold \d+% of the weights"):
        require_linear(model, "x")
    require_linear(AutoModelForCausalLM.from_pretrained(chat_model), "x")
    model.save_pretrained(tmp_path / "moe")
    AutoTokenizer.from_pretrained(chat_model).save_pretrained(tmp_path / "moe")
    config = json.loads((tmp_path / "moe/config.json").read_text())
    assert config.pop("num_local_experts") == 8  # the default of the family, which is then not in the file
    (tmp_path / "moe/config.json").write_text(json.dumps(config))
    with pytest.raises(Refusal, match="linear layers hold"):
        write_pruned(str(tmp_path / "moe"), PruneConfig([0.5]), "pruned-50", tmp_path / "out")


@pytest.mark.model
def test_a_copy_is_loaded_twice_in_turns(chat_model, tmp_path, monkeypatch):
    """A large copy takes minutes to load."""
    from lifecycle_recipes.publish import pruned_figures
    from lifecycle_recipes.record.run import Run

    loaded, load = [], pruned_figures.load_form
    monkeypatch.setattr(
        pruned_figures, "load_form", lambda form, place: loaded.append(form) or load(form, place)
    )
    recipe = {"stage": "export", "model": {"model_name_or_path": str(chat_model)}}
    recipe["export"] = {"output_dir": str(tmp_path / "out")}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    with Run(read_recipe(str(tmp_path / "r.yaml"))) as run:
        places = {"merged": chat_model, "pruned-50": chat_model}
        pruned_figures.measure_pruned(places, [[1, 5], [1, 6]], 4, run)
    assert loaded == ["merged", "pruned-50"] * 2 and run.metrics == {"pruned-50.sparsity": 0.0}


def test_a_section_that_does_nothing_is_named(chat_model, tiny_reward_dir, tmp_path, capsys):
    def errors(agreement=None, source=chat_model, gate=(), **prune) -> str:
        export = {"output_dir": str(tmp_path / "out"), "agreement": agreement or {}}
        model = {"model_name_or_path": str(source)}
        recipe = {"stage": "export", "model": model, "export": export, "prune": prune}
        recipe["gate"] = list(gate)
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        with pytest.raises(SystemExit):
            lifecycle(["check", str(tmp_path / "r.yaml")])
        found = capsys.readouterr()
        return "".join(line + "\n" for line in (found.out + found.err).splitlines() if "error [" in line)

    assert "[no-effect]" in errors() and "prune writes no copy" in errors(two_of_four=False)
    assert "prune.scope has no effect" in errors(two_of_four=True, scope="global")
    assert "[bad-value]" in errors(levels=[0.5, 0.50])
    assert "[out-of-range]" in errors(levels=[1.0]) and "[out-of-range]" in errors(levels=[0.0])
    assert "[no-effect]" in errors(levels=[0.5], agreement={"int8": 0.5})
    assert "[bad-value]" in errors(levels=[0.5], agreement={"pruned-70": 0.5})
    assert "[gate-unknown]" in errors(levels=[0.5], gate=["pruned-70.sparsity > 0.6"])
    assert errors(levels=[0.125], gate=["pruned-12.5.sparsity > 0.1"]) == ""
    assert "[reward-form]" in errors(source=tiny_reward_dir, levels=[0.5])
    assert errors(levels=[0.5], two_of_four=True, agreement={"pruned-50": 0.5}) == ""
