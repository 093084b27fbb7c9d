"""Rows, recipes and parents for the tests of the reward, dpo, kto and ppo stages."""

import json
from pathlib import Path
from types import SimpleNamespace

import yaml

COMMON = {
    "per_device_train_batch_size": 8,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "activation_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8}


def user(i: int) -> list[dict]:
    return [{"role": "user", "content": f"Which colour is service {i}?"}]


def message(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def pairs(n: int = 24) -> list[dict]:
    return [
        {"prompt": user(i), "chosen": message(f"Red {i}."), "rejected": message(f"{i}, maybe, who knows?")}
        for i in range(n)
    ]


def thumbs(n: int = 24) -> list[dict]:
    return [
        {"prompt": user(i), "completion": message("Red." if i % 2 else "who knows"), "label": bool(i % 2)}
        for i in range(n)
    ]


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_recipe(folder: Path, stage: str, rows: list[dict], parent: str, **sections) -> str:
    """A recipe file in `folder`; the replies of the first 9 rows, to other prompts, are held out.

    `sections` go over the defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {
        "stage": stage,
        "model": {"model_name_or_path": str(parent)},
        "data": {"sources": [{"path": write_rows(folder / "train.jsonl", rows)}]},
        "train": {"output_dir": str(folder / "run"), **COMMON},
    }
    if stage in ("dpo", "kto"):
        recipe["allow"] = {"stop-token-missing": "the parent is a random model, made a moment ago"}
    if stage != "ppo":
        held_out = [row | {"prompt": user(100 + i)} for i, row in enumerate(rows[:9])]
        recipe["data"]["eval_sources"] = [{"path": write_rows(folder / "eval.jsonl", held_out)}]
    for name, values in sections.items():
        recipe[name] = {**recipe.get(name, {}), **values}
    path = folder / f"{stage}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return str(path)


def quiet_run():
    """What `build_trainer` needs of a Run, without a record on disk."""
    run = SimpleNamespace(metrics={}, noted={}, findings=[], resume_from=None, reloaded=None)
    run.note = lambda **fields: run.noted.update(fields)
    run.report = run.findings.extend
    return run


def snapshot(model) -> dict:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model, before: dict) -> set[str]:
    import torch

    return {name for name, p in model.named_parameters() if not torch.equal(p.detach(), before[name])}


def save_lora_parent(model_dir: Path, path: Path) -> Path:
    """An adapter with random weights on `model_dir`: a parent whose training must not be dropped."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), config)
    for name, p in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(path)
    return path
