"""Load saved models in a process that knows nothing of this package, and print what they say as JSON.

    python tests/reload_cases.py cases.json

cases.json: [{path, parent, scores, quantised, ids}, ...]. Prints a list of {value, unmoved}: what a run's
probe records, and the tensors that are as in the parent (of an adapter: those that are all zero).
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig


def load(case: dict):
    kind, options = AutoModelForCausalLM, {}
    if case["scores"]:
        kind, options = AutoModelForSequenceClassification, {"num_labels": 1}
    adapter = Path(case["path"], "adapter_config.json")
    if not adapter.is_file():
        return kind.from_pretrained(case["path"], **options).eval()
    base = json.loads(adapter.read_text())["base_model_name_or_path"]
    if case["quantised"]:
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16")
        bits.bnb_4bit_quant_type = "nf4"
        options |= {"dtype": torch.bfloat16, "device_map": {"": "cpu"}, "quantization_config": bits}
    return PeftModel.from_pretrained(kind.from_pretrained(base, **options), case["path"]).eval()


@torch.no_grad()
def message(case: dict) -> float:
    """The mean log-probability of the text's tokens, or its score."""
    ids = torch.tensor([case["ids"]])
    logits = load(case)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    if case["scores"]:
        return logits.item()
    return logits[:-1].float().log_softmax(-1).gather(-1, ids[0, 1:, None]).mean().item()


def unmoved(case: dict) -> list[str]:
    path = Path(case["path"])
    if (path / "adapter_model.safetensors").is_file():
        saved = load_file(path / "adapter_model.safetensors")
        return [name for name, weight in saved.items() if not weight.any()]
    saved, parent = load_file(path / "model.safetensors"), load_file(case["parent"] + "/model.safetensors")
    return [name for name in saved.keys() & parent.keys() if torch.equal(saved[name], parent[name])]


if __name__ == "__main__":
    cases = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([{"value": message(case), "unmoved": unmoved(case)} for case in cases]))
