"""What was pushed, pulled with from_pretrained in a new process, is the model that was pushed."""

import json
import os
import shutil
import subprocess
import sys

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
