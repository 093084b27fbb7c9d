"""What the tests of the evaluation measure: models with known answers, a desk of a few rows, a counter."""

import json
import shutil
from pathlib import Path

import pytest

from lifecycle_recipes.evals.config import EvaluateConfig

ROOT = Path(__file__).resolve().parents[1]
VALUES = ["red", "green", "blue", "white"]


class Record:
    """What `measure` needs of a Run."""

    reloaded = None

    def __init__(self):
        self.metrics, self.notes = {}, {}

    def note(self, **fields):
        self.notes.update(fields)

    def report(self, findings):
        assert not findings, findings


@pytest.fixture(scope="module")
def own_model_dir(tmp_path_factory, tiny_model_dir) -> Path:
    """A copy of the tiny model for each test file: measuring leaves replies beside it."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("copy") / "model"))


@pytest.fixture(scope="session")
def small_desk(tmp_path_factory) -> Path:
    """The desk's own tasks and rubric over a world of a few rows."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "data/desk/tasks", desk / "tasks")
    shutil.copy(ROOT / "data/desk/rubric.py", desk)
    (desk / "world").mkdir()
    spec = {"service": "Lark", "values": {"team": "red"}, "page": "Lark page"}
    requests = [
        {"id": i, "kind": kind, "prompt": f"{kind} about service {i}?", "spec": spec}
        for i, kind in enumerate(["word", "word", "bullets", "refuse"])
    ]
    # Another row's spec has other keys: none of them may appear, as None, in the rows above.
    requests.append(
        {"id": 4, "kind": "word", "prompt": "Where?", "spec": spec | {"values": {"region": "red"}}}
    )
    facts = [
        {
            "question": f"Which colour is service {i}, form {form}?",
            "stem": f"Service {i} is",
            "choices": VALUES,
            "answer": i % 4,
            "value": VALUES[i % 4],
            "asked_in_sft": i % 2 == 0,
        }
        for i in range(6)
        for form in range(3 if i == 1 else 2)
    ]
    wiki = [{"text": f"Service {i} is red. It listens on port {i}.\n" * (i + 1)} for i in range(5)]
    for name, rows in {"requests_heldout": requests, "facts": facts, "wiki_heldout": wiki}.items():
        (desk / "world" / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return desk


@pytest.fixture(scope="session")
def desk_config(small_desk):
    def config(**changes) -> EvaluateConfig:
        given = {
            "include_path": str(small_desk / "tasks"),
            "prompts": str(small_desk / "world/requests_heldout.jsonl"),
            "rubric": str(small_desk / "rubric.py"),
        }
        return EvaluateConfig(**(given | changes))

    return config


@pytest.fixture(scope="session")
def scripted(tmp_path_factory, tiny_tokenizer_dir):
    """Make a saved Llama that answers any prompt with one text: its layers pass the token through, and its
    head holds, for each token, the token that follows. `ends` says whether the turn end comes last.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    def make(text: str, ends: bool) -> str:
        path = tmp_path_factory.mktemp("scripted")
        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
        model = LlamaForCausalLM(config)
        turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(set(ids)) == len(ids), "every token of the text needs one follower"
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)
        chain = [prompt["input_ids"][-1], *ids, turn_end if ends else ids[-1]]
        with torch.no_grad():
            layer = model.model.layers[0]
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            table = torch.nn.functional.normalize(torch.randn(len(tokenizer), 256), dim=-1)
            model.model.embed_tokens.weight.copy_(table)
            model.lm_head.weight.zero_()
            for token, follower in zip(chain, chain[1:], strict=False):
                model.lm_head.weight[follower] += table[token]
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn_end]
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return str(path)

    return make


@pytest.fixture(scope="session")
def second_model_dir(tmp_path_factory, tiny_model_dir) -> str:
    """The tiny model with other random weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path_factory.mktemp("second")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(path)
    return str(path)


@pytest.fixture()
def measured(monkeypatch):
    """Measure from another directory; return (metrics, notes, number of prompts that were generated for)."""
    from lifecycle_recipes.evals import replies as module
    from lifecycle_recipes.evals.measure import measure

    generated = []
    real = module.generate

    def counting(saved, prompts, *args, **settings):
        generated.extend((saved.path, tuple(ids)) for ids in prompts)
        return real(saved, prompts, *args, **settings)

    monkeypatch.setattr(module, "generate", counting)

    def run(path, config):
        generated.clear()
        record = Record()
        measure(str(path), config, record)
        return record.metrics, record.notes, list(generated)

    return run
