"""An adapter whose initialisation changed the base: merged it is the trained model, or it is refused."""

import json

import pytest
import torch
import yaml
from saved_adapters import save_adapter
from transformers import AutoModelForCausalLM

from lifecycle_recipes.cli import main as lifecycle
from lifecycle_recipes.models.adapters import merge_adapter
from lifecycle_recipes.publish.source import find_in_source

IDS = torch.tensor([[1, 5, 9, 40, 7, 3]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def distance(chat_model, path, init) -> float:
    """Of the logits of the merged adapter from those of the model in memory, per unit of their spread."""
    trained = []
    save_adapter(chat_model, path, lora={"init_lora_weights": init}, trained=trained)
    wanted = logits(trained[0])
    torch.manual_seed(99)  # a new process
    merged = merge_adapter(str(path), AutoModelForCausalLM, dtype="float32")
    return float((logits(merged) - wanted).abs().max() / wanted.std())


@pytest.mark.model
@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal", "pissa", "olora"])
def test_a_merged_adapter_is_the_trained_one(chat_model, tmp_path, init):
    assert distance(chat_model, tmp_path / "a", init) < 1e-4
    assert find_in_source(str(tmp_path / "a")) is None


@pytest.mark.model
def test_an_adapter_that_peft_loads_on_another_base_is_not_exported(chat_model, tmp_path, capsys):
    """The randomised PiSSA: each load decomposes the base anew."""
    assert distance(chat_model, tmp_path / "a", "pissa_niter_4") > 0.1
    recipe = {
        "stage": "export",
        "model": {"model_name_or_path": str(tmp_path / "a")},
        "export": {"output_dir": str(tmp_path / "out")},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit) as end:
        lifecycle(["check", str(tmp_path / "r.yaml")])
    shown = capsys.readouterr()
    assert end.value.code == 2 and "[not-exportable]" in shown.out + shown.err


@pytest.mark.parametrize("change", [{"init_lora_weights": "lora_ga"}, {"alora_invocation_tokens": [5]}])
def test_it_is_refused_below_another_adapter_too(chat_model, tmp_path, change):
    below = save_adapter(chat_model, tmp_path / "below")
    above = save_adapter(chat_model, tmp_path / "above")
    for path, changes in ((below, change), (above, {"base_model_name_or_path": str(below)})):
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(config | changes))
    assert find_in_source(str(above)) and find_in_source(str(below))
