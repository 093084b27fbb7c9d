"""What was pushed, pulled in a new process by from_pretrained or by the code of its card, is what was pushed."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hub_server import Repo
from saved_adapters import save_adapter

CHECK = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

run, reward = sys.argv[1:]
talk = [{"role": "user", "content": "Which colour is service 3?"}]


def same_tensors(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def text(path, **where):
    model = AutoModelForCausalLM.from_pretrained(path, **where)
    tokenizer = AutoTokenizer.from_pretrained(path, **where)
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        reply = model.generate(**ids, do_sample=False, max_new_tokens=16)
    return model, tokenizer, tokenizer.decode(reply[0])


ours, theirs = text(run), text("me/desk", revision="v1")
same_tensors(ours[0], theirs[0])
assert ours[1].chat_template == theirs[1].chat_template and ours[1].get_vocab() == theirs[1].get_vocab()
assert ours[0].generation_config.eos_token_id == theirs[0].generation_config.eos_token_id
assert ours[2] == theirs[2] and len(ours[2]) > 10


def score(path):
    model = AutoModelForSequenceClassification.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = tokenizer(["Service 3 is red.", "Service 4 is blue."], return_tensors="pt", padding=True)
    with torch.inference_mode():
        return model, model(**ids).logits


ours, theirs = score(reward), score("me/reward")
same_tensors(ours[0], theirs[0])
assert torch.allclose(ours[1], theirs[1], atol=1e-5) and ours[1].std() > 1e-3
"""


def test_a_model_and_a_reward_model_come_back_as_they_were(hub, run, push, tiny_reward_dir, tmp_path):
    assert push(run, "--license", "mit", "--branch", "v1").returncode == 0
    reward = shutil.copytree(tiny_reward_dir, tmp_path / "05-reward")
    record = json.loads((run / "run.json").read_text()) | {"stage": "reward", "parents": {}}
    (reward / "run.json").write_text(json.dumps(record))
    done = push(reward, "--license", "mit", "--repo", "me/reward")
    assert done.returncode == 0, done.stderr
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "pulled")}
    pulled = subprocess.run(
        [sys.executable, "-c", CHECK, str(run), str(reward)],
        env=os.environ | settings | {"HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
    )
    assert pulled.returncode == 0, pulled.stderr.decode()[-2000:]


# The code of a card, against the adapter as it was measured.
CODE = """
import sys
import torch
from lifecycle_recipes.models.load import keep_4bit_layout
from lifecycle_recipes.models.quantised_base import quantisation_of
from lifecycle_recipes.models.saved import load_saved

run, code = sys.argv[1:]
ids = torch.arange(4, 20)[None]


def logits(model):
    with torch.inference_mode():
        return keep_4bit_layout(model).eval()(ids).logits  # some CPUs would compute in bfloat16


exec(code)
ours = logits(load_saved(run, quantisation_of(run)).model)
assert torch.allclose(logits(model), ours, atol=1e-5)
if quantisation_of(run):
    assert not torch.allclose(logits(load_saved(run).model), ours, atol=1e-3)
"""


@pytest.mark.parametrize(
    "quantised", [{}, {"load_in_4bit": True, "use_bnb_nested_quant": True}], ids=["lora", "qlora"]
)
def test_an_adapter_is_loaded_by_its_card_as_it_was_measured(
    hub, run, push, tiny_model_dir, tmp_path, quantised
):
    """A QLoRA adapter on its base in full is another model."""
    hub.repos["org/base"] = Repo(private=False)
    files = hub.repos["org/base"].branches["main"]
    files |= {file.name: file.read_bytes() for file in tiny_model_dir.iterdir()}
    adapter = save_adapter(tiny_model_dir, tmp_path / "04-sft")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/base"}))
    record = json.loads((run / "run.json").read_text()) | {"stage": "sft", "parents": {}}
    settings = {"model": {"model_name_or_path": "org/base", "use_peft": True} | quantised}
    (adapter / "run.json").write_text(json.dumps(record | {"settings": settings}))
    done = push(adapter, "--license", "mit")
    assert done.returncode == 0, done.stderr
    card = hub.repos["me/desk"].branches["main"]["README.md"].decode()
    assert bool(quantised) == ("| base | quantised to 4 bits" in card) == ("vllm serve" not in card)
    assert bool(quantised) == ("not quantised to 4 bits it is another model" in card)
    code = next(block for block in card.split("```python\n") if block.startswith("from peft")).split("```")[0]
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "pulled")}
    pulled = subprocess.run(
        [sys.executable, "-c", CODE, str(adapter), code],
        env=os.environ | settings | {"HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
    )
    assert pulled.returncode == 0, pulled.stderr.decode()[-2000:]
