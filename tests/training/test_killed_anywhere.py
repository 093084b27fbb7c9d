"""A run that is killed with SIGKILL anywhere, and started again, ends with the same bits as an uninterrupted one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from preference_runs import save_lora_parent
from repository import ROOT

pytestmark = pytest.mark.slow
OURS = "lifecycle_recipes"
# Phase of a run -> where it is killed (tests/fixtures/killed_runs.py). Of 5 steps, 2, 4 and 5 have a checkpoint.
PHASES = {
    "rows": f"{OURS}.data.prepare:write_entry",
    "built": f"{OURS}.training.train:train_and_save",
    "first-step": f"{OURS}.training.finite:Watch.on_step_end",
    "weights": "transformers:Trainer._save_optimizer_and_scheduler",
    "optimizer": "transformers:Trainer._save_rng_state",
    "state": f"{OURS}.training.resume:write_manifest",
    "third-step": f"{OURS}.training.finite:Watch.on_step_end#3",
    "second-weights": "transformers:Trainer._save_optimizer_and_scheduler#2",
    "second-state": f"{OURS}.training.resume:write_manifest#2",
    "deletion": f"{OURS}.training.resume:delete_old_checkpoints#2",
    "last-state": f"{OURS}.training.resume:write_manifest#3",
    "last-step": f"{OURS}.training.train:find_unmoved",
    "final-save": f"{OURS}.training.save:Saves.finish",
    "compare": f"{OURS}.training.save:Saves._check",
    "reload": f"{OURS}.training.reload:_difference",
    "held-out": "transformers:Trainer.evaluate",
    "trained": f"{OURS}.record.run:Run.note_trained+",
    "evaluation": f"{OURS}.evals.measure:_judge_by_rubric",
    "record": f"{OURS}.record.run:Run._hash_outputs",
}
# One run after the other in one directory: before and in training, in a checkpoint, in every phase after it.
CHAIN = ["rows", "first-step", "second-weights", "last-step", "final-save", "compare", "reload", "held-out"]
CHAIN += ["trained", "record"]
TRAIN = {
    "max_steps": 5,
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 1,
    "logging_steps": 3,
    "learning_rate": 1e-3,
}
LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.1}
QLORA = LORA | {"load_in_4bit": True}
RUBRIC = "def score(row, reply):\n    return min(len(reply) / 100, 1)\n"


@pytest.fixture
def recipes(recipe_of, chat_model, tmp_path):
    """Writes recipes of a stage that differ in their output directory only."""
    config = json.loads((chat_model / "config.json").read_text())
    (chat_model / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.2}))
    prompts, rubric = tmp_path / "prompts.jsonl", tmp_path / "rubric.py"
    prompts.write_text('{"prompt": [{"role": "user", "content": "Which colour?"}]}\n')
    rubric.write_text(RUBRIC)

    def write(stage: str, names: list[str], model: dict | None = None) -> list[str]:
        recipe = yaml.safe_load(Path(recipe_of(stage)).read_text())
        recipe["train"] |= TRAIN
        if stage == "sft":
            recipe["data"] = {"sources": recipe["data"]["sources"], "eval_fraction": 0.2}
        recipe["model"] |= model or {}
        if stage in ("sft", "dpo", "kto"):
            recipe["evaluate"] = {"prompts": str(prompts), "rubric": str(rubric), "max_new_tokens": 4}
        written = []
        for name in names:
            recipe["train"]["output_dir"] = str(tmp_path / f"runs/{name}")
            written.append(str(tmp_path / f"{name}.yaml"))
            Path(written[-1]).write_text(yaml.safe_dump(recipe))
        return written

    return write


def run(cases: list[tuple[str, str, list[str]]], folder: Path) -> list[list[int]]:
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, str(ROOT / "tests/fixtures/killed_runs.py"), str(folder / "cases.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def result(directory: Path) -> dict:
    """What must not depend on an interruption: every file of the model, figures, log."""
    record = json.loads((directory / "run.json").read_text())
    keys = ("status", "metrics", "probe", "tokens", "data", "weights_sha256", "samples", "layout")
    found = {key: record.get(key) for key in keys}
    found["files"] = {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.suffix == ".safetensors"
    }
    log = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    timings = ("runtime", "per_second", "eps")
    found["log"] = [{k: v for k, v in entry.items() if not k.endswith(timings)} for entry in log]
    return found


def require_same(one: dict, whole: dict, name: str) -> None:
    assert one["files"].keys() == whole["files"].keys(), name
    for key, value in whole.items():
        assert one[key] == value, f"{name}: {key}"


def test_sft_killed_in_every_phase(recipes, tmp_path):
    names = ["whole", *PHASES]
    written = recipes("sft", names)
    cases = [
        ("sft", path, [PHASES[n]] if n in PHASES else []) for n, path in zip(names, written, strict=True)
    ]
    ends = dict(zip(names, run(cases, tmp_path), strict=True))
    assert ends == {"whole": [0]} | {name: [-9, 0] for name in PHASES}
    whole = result(tmp_path / "runs/whole")
    assert whole["metrics"]["train_loss"] > 0 and whole["metrics"]["steps"] == 5
    for name in PHASES:
        require_same(result(tmp_path / f"runs/{name}"), whole, name)


@pytest.mark.parametrize(
    ("stage", "model"),
    [
        ("pretrain", {}),
        ("sft", LORA),
        ("sft", QLORA),
        ("reward", {}),
        ("dpo", {}),
        ("dpo", LORA),
        ("kto", {}),
        ("ppo", {}),
    ],
    ids=["pretrain", "sft-lora", "sft-qlora", "reward", "dpo", "dpo-lora", "kto", "ppo"],
)
def test_a_stage_killed_again_and_again(recipes, tmp_path, stage, model):
    phases = [phase for phase in CHAIN if stage != "ppo" or phase not in ("second-weights", "held-out")]
    whole, killed = recipes(stage, ["whole", "killed"], model)
    ends = run([(stage, whole, []), (stage, killed, [PHASES[phase] for phase in phases])], tmp_path)
    assert ends == [[0], [-9] * len(phases) + [0]], Path(f"{killed}.log").read_text()[-3000:]
    require_same(result(tmp_path / "runs/killed"), result(tmp_path / "runs/whole"), stage)


def test_an_adapter_on_an_adapter_killed_while_its_base_is_written(recipes, chat_model, tmp_path):
    parent = save_lora_parent(chat_model, tmp_path / "parent")
    points = ["transformers:PreTrainedModel.save_pretrained", f"{OURS}.models.load:write_manifest"]
    points += [PHASES["first-step"], PHASES["last-step"], PHASES["trained"]]
    whole, killed = recipes("sft", ["whole", "killed"], LORA | {"model_name_or_path": str(parent)})
    ends = run([("sft", whole, []), ("sft", killed, points)], tmp_path)
    assert ends == [[0], [-9] * len(points) + [0]], Path(f"{killed}.log").read_text()[-3000:]
    require_same(result(tmp_path / "runs/killed"), result(tmp_path / "runs/whole"), "lora on lora")
