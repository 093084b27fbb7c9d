"""Recipes, trainers and their rows for the tests of the data cache."""

import importlib
import json
import os
from pathlib import Path

import yaml

STAGES = ("pretrain", "sft", "reward", "ppo", "dpo", "kto")


def write_pretrain(folder: Path, texts: list[str], parent) -> str:
    folder.mkdir(parents=True)
    for name, part in (("train", texts[:48]), ("eval", texts[48:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in part))
    recipe = {
        "stage": "pretrain",
        "model": {"model_name_or_path": str(parent)},
        "text": {"block_size": 32},
        "data": {
            "sources": [{"path": str(folder / "train.jsonl")}],
            "eval_sources": [{"path": str(folder / "eval.jsonl")}],
        },
        "train": {"output_dir": str(folder / "run"), "use_cpu": True, "report_to": "none"},
    }
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(recipe))
    return str(folder / "pretrain.yaml")


def build(path: str, *overrides: str):
    """(trainer, run) of the recipe at `path`, as its stage builds it; run.notes, run.findings."""
    from lifecycle_recipes.doctor.trainer_level.trial_build import stand_in_for_run
    from lifecycle_recipes.recipe.read import load_recipe, read_recipe
    from lifecycle_recipes.recipe.schema import recipe_class

    stage = read_recipe(path).stage
    module = importlib.import_module(f"lifecycle_recipes.stages.{stage}")
    recipe, run = load_recipe(recipe_class(stage), [path, *overrides]), stand_in_for_run()
    return module.build_trainer(recipe, run), run


def rows(dataset) -> list | None:
    return None if dataset is None else [dataset.column_names, *dataset]


def everything(trainer, run) -> str:
    """What a trainer trains on and starts from, and its ledger, as one text."""
    start = {name: p.double().sum().item() for name, p in trainer.model.named_parameters()}
    batch = {k: v.tolist() for k, v in next(iter(trainer.get_train_dataloader())).items()}
    parts = [rows(trainer.train_dataset), rows(trainer.eval_dataset), start, batch, run.notes["data"]]
    return json.dumps(parts)


def is_hit(path: str, *overrides: str) -> bool:
    return build(path, *overrides)[1].notes["data_cache"]["hit"]


def entries() -> list[Path]:
    """What lies in the cache, unfinished work included."""
    return sorted((Path(os.environ["LIFECYCLE_CACHE"]) / "rows").iterdir())
