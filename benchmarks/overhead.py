"""What lifecycle-recipes costs: against a bare script that calls the same trainer with its arguments.

    python benchmarks/overhead.py --pairs 3
    python benchmarks/overhead.py --case run --steps 50

Three cases, on the desk's model, data and arguments, without evaluation and checkpoints: the stage alone, for
sft (TRL's SFTTrainer) and pretrain (transformers' Trainer), and `lifecycle run` of sft, which checks the recipe
first. The bare script and ours run in turn (A-B-A-B), each in a process and with caches of its own, which are
empty. The times are the whole process's, imports and saving the model included; CPU time (of all threads) is
there to judge the wall time by, which needs a machine that does nothing else. Both must end at the same
training loss, else nothing is compared.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml

from lifecycle_recipes.recipe.read import read_recipe
from lifecycle_recipes.record import environment

ROOT = Path(__file__).resolve().parents[1]
# The glue needs neither: what is measured after training, and how often a checkpoint is written. Rows of equal length
# are grouped otherwise by a stage, the same for every layout, than by transformers: the two would not do the same.
PLAIN = {"save_strategy": "no", "bf16": False, "train_sampling_strategy": "random"}
# case -> (stage, its command, steps, at most this many times the bare script's wall time)
STAGE, RUN = "lifecycle_recipes.stages.{}", "lifecycle_recipes.cli run"
CASES = {
    "sft": ("sft", STAGE, 300, 1.02),
    "pretrain": ("pretrain", STAGE, 300, 1.02),
    "run": ("sft", RUN, 50, 1.15),
}


def main(argv: list[str] | None = None) -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("overhead.py", description=__doc__, formatter_class=shape)
    parser.add_argument(
        "--pairs", type=positive, default=3, metavar="N", help="how often each of the two runs"
    )
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="optimizer steps of every run (default: 300; run: 50)"
    )
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be repeated")
    args = parser.parse_args(argv)
    print(f"versions: {as_text(environment.versions())}\nhardware: {as_text(environment.hardware())}")
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        here = Path(folder)
        prepare(here)
        for case in args.case or CASES:
            steps = args.steps or CASES[case][2]
            print(f"\n{case}, {steps} steps: wall seconds, then CPU seconds", flush=True)
            print("  pair     bare     ours   ratio     bare     ours   ratio")
            report([pair(here, case, steps, number) for number in range(1, args.pairs + 1)], CASES[case][3])


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def as_text(facts: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value)


def desk_recipe(here: Path, name: str, **train) -> dict:
    """The desk's recipe, in `here`, without its measures and promises; `train` goes over its arguments."""
    raw = read_recipe(ROOT / f"recipes/desk/{name}.yaml", [])
    text = json.dumps({"stage": raw.stage, **raw.values}).replace("runs/desk", str(here / "desk"))
    text = text.replace(str(here / "desk/01-curate/train.jsonl"), str(here / "world/wiki.jsonl"))
    recipe = json.loads(text.replace("data/desk/world", str(here / "world")))
    for section in ("evaluate", "gate"):
        recipe.pop(section, None)
    if "train" in recipe:
        recipe["data"].pop("eval_sources")
        recipe["train"] |= PLAIN | train
    return recipe


def prepare(here: Path) -> None:
    """The world, a tokenizer and a base of a few steps, each with its record: what a stage has to check."""
    run([sys.executable, str(ROOT / "data/desk/generate.py"), "--out", str(here / "world")], here)
    for name in ("02-tokenizer", "03-pretrain"):
        start_stage(here, desk_recipe(here, name, max_steps=2, warmup_steps=1))


def pair(here: Path, case: str, steps: int, number: int) -> tuple[float, ...]:
    """Wall seconds of the bare script and of ours, run one after the other; then their CPU seconds."""
    stage, command, *_ = CASES[case]
    name = {"sft": "04-sft", "pretrain": "03-pretrain"}[stage]
    # A schedule must fit into the steps; the same one on both sides.
    fitted = {"max_steps": steps, "warmup_steps": min(20, steps - 1)}
    out = {side: str(here / f"{case}-{side}-{number}") for side in ("bare", "ours")}
    recipe = desk_recipe(here, name, **fitted, output_dir=out["ours"])
    if stage == "pretrain":
        recipe["train"]["lr_scheduler_kwargs"] = {"num_decay_steps": max(1, steps // 3)}
    settings = bare_settings(recipe) | {"train": recipe["train"] | {"output_dir": out["bare"]}}
    if stage == "sft":
        settings["train"]["eos_token"] = "<|im_end|>"  # the stage takes it from the chat template
    (here / "settings.json").write_text(json.dumps(settings))
    bare = [sys.executable, str(ROOT / f"benchmarks/bare_{stage}.py"), str(here / "settings.json")]
    bare_wall, bare_cpu, said = run(bare, here)
    our_wall, our_cpu, _ = start_stage(here, recipe, command)
    losses = json.loads(said.splitlines()[-1])["train_loss"], read_loss(out["ours"])
    if losses[0] != losses[1]:
        sys.exit(f"the two did not do the same: training loss {losses[0]} (bare) and {losses[1]} ({case})")
    seconds = bare_wall, our_wall, bare_cpu, our_cpu
    print(f"  {number:4}  {as_row(*seconds)}", flush=True)
    return seconds


def as_row(bare_wall: float, our_wall: float, bare_cpu: float, our_cpu: float) -> str:
    wall, cpu = our_wall / bare_wall, our_cpu / bare_cpu
    return f"{bare_wall:7.2f}  {our_wall:7.2f}  {wall:.4f}  {bare_cpu:7.2f}  {our_cpu:7.2f}  {cpu:.4f}"


def bare_settings(recipe: dict) -> dict:
    settings = {"data": recipe["data"]["sources"][0]["path"]}
    if recipe["stage"] == "sft":
        return settings | {"model": recipe["model"]["model_name_or_path"]}
    architecture = recipe["architecture"]
    settings |= {"tokenizer": architecture["tokenizer"], "config": architecture["config"]}
    return settings | {"block_size": recipe["text"]["block_size"]}


def start_stage(here: Path, recipe: dict, command: str = STAGE) -> tuple[float, float, str]:
    file = here / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return run([sys.executable, "-m", *command.format(recipe["stage"]).split(), str(file)], here)


def run(command: list[str], here: Path) -> tuple[float, float, str]:
    """(wall seconds, CPU seconds, stdout) of a process; ends the benchmark with its words where it fails."""
    with tempfile.TemporaryDirectory(dir=here) as cache:
        own = {"HF_DATASETS_CACHE": f"{cache}/datasets", "LIFECYCLE_CACHE": f"{cache}/lifecycle"}
        own["HF_HUB_OFFLINE"] = "1"
        started, before = time.perf_counter(), children_cpu()
        done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds, children_cpu() - before, done.stdout


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_loss(output_dir: str) -> float:
    return json.loads((Path(output_dir) / "run.json").read_text())["metrics"]["train_loss"]


def report(pairs: list[tuple[float, ...]], target: float) -> None:
    """The least and the median of each column, the ratios of these, and whether the wall time keeps its target."""
    for word, of in (("least", min), ("median", median)):
        seconds = [of(column) for column in zip(*pairs, strict=True)]
        print(f"{word:6}  {as_row(*seconds)}   ({len(pairs)} pairs)", flush=True)
    verdict = "kept" if seconds[1] <= target * seconds[0] else "missed"
    print(f"target  {target:.2f} x the bare script's wall time: {verdict}", flush=True)


if __name__ == "__main__":
    main()
