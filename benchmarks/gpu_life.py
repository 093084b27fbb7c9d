"""The desk's lifecycle with a model of a real shape on one GPU: what every stage takes, and what its gate says.

    python benchmarks/gpu_life.py --write docs/real-models.md
    python benchmarks/gpu_life.py --cpu --shape tiny --steps 4      to see that this script works

The recipes are those of recipes/desk, with the model of `--shape` (random weights, the desk's tokenizer) and
the learning rates below: what suits 1.5 M parameters is too much for 135 M. A failed gate is printed and
the life goes on.
"wall" is the whole command, checks, evaluation and reload included; "train" the trainer's own time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from gpu_layouts import ROOT, SHAPES, facts, table, write

from lifecycle_recipes.doctor.recipe_level.layout_launch import count_gpus

HEAD = ("stage", "wall, s", "train, s", "tokens/s", "peak, GB", "reload", "measured", "gate")
RATES = {
    "01-curate": {},
    "02-tokenizer": {},
    "03-pretrain": {"learning_rate": 1e-3},
    "04-sft": {"learning_rate": 1e-4},
    "04-sft-lora": {"learning_rate": 5e-4},
    "05-reward": {"learning_rate": 3e-5},
    "06-ppo": {"learning_rate": 3e-6},
    "07-dpo": {"learning_rate": 3e-6},
    "08-kto": {"learning_rate": 3e-6},
}


def main() -> None:
    args = parse()
    if not args.cpu and not count_gpus():
        print("no GPU: nothing can be measured here (--cpu tries the script itself)", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory(prefix="life-") as folder:
        rows = []
        for name in RATES:
            rows.append(measure(Path(folder), name, args))
            print(" | ".join(rows[-1]), flush=True)
            steps = f", {args.steps} steps of every stage" if args.steps else ""
            text = table(facts(args, f"the recipes of the desk, shape {args.shape}{steps}"), HEAD, rows)
            if args.write:  # after each, so that nothing is lost if it is stopped
                write(Path(args.write), text, "gpu life")
    print(f"\n{text}")
    sys.exit(any(cells[-1].startswith("failed (") for cells in rows))


def parse() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("gpu_life.py", description=__doc__, formatter_class=shape)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--steps", type=int, metavar="N", help="of every stage (default: as in the recipe)")
    parser.add_argument("--write", metavar="FILE", help="put the table between the markers of this page")
    parser.add_argument("--cpu", action="store_true", help="without a GPU, to see that this script works")
    return parser.parse_args()


def measure(folder: Path, name: str, args: argparse.Namespace) -> tuple[str, ...]:
    """The cells of a row: one stage, then its gate."""
    text = (ROOT / f"recipes/desk/{name}.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text.replace("runs/desk", str(folder)))
    if "train" in recipe:
        recipe["train"] |= RATES[name] | ({"max_steps": args.steps} if args.steps else {})
    if "architecture" in recipe:
        kind, sizes = SHAPES[args.shape]
        # The desk's tokenizer has its own vocabulary.
        own = {key: value for key, value in sizes.items() if key != "vocab_size"}
        recipe["architecture"] |= {"model_type": kind, "config": own}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    flags = ["--cpu"] if args.cpu else []
    start = time.monotonic()
    ran = lifecycle("run", str(path), "--allow-failed-parent", *flags)
    wall = time.monotonic() - start
    file = folder / name / "run.json"
    record = json.loads(file.read_text()) if file.is_file() else {}
    if ran.returncode or record.get("status") != "done":
        print(ran.stderr[-4000:], file=sys.stderr)
        said = [line for line in ran.stderr.splitlines() if line.startswith("error")] or [ran.stderr[-300:]]
        return name, f"{wall:.0f}", "", "", "", "", "", f"failed ({ran.returncode}): {said[0][:200]}"
    judged = lifecycle("gate", str(folder / name))
    metrics, saved = record.get("metrics", {}), record.get("saved") or {}
    shown = {key: value for key, value in metrics.items() if any(key in line for line in recipe["gate"])}
    peak = record.get("peak_gpu_memory_gb", record["peak_memory_gb"])
    seconds, rate = record.get("train_seconds"), record.get("tokens_per_second")
    return (
        *(name, f"{wall:.0f}", f"{seconds:.1f}" if seconds else ""),
        *(f"{rate:,.0f}" if rate else "", f"{peak:.1f}"),
        f"{saved['differs']:.1e}" if saved.get("compared") else "",
        ", ".join(f"{key} {value:.3g}" for key, value in shown.items() if isinstance(value, float)),
        "passes" if judged.returncode == 0 else "fails: " + failures(judged.stdout),
    )


def failures(printed: str) -> str:
    return "; ".join(
        line.strip()[4:].strip() for line in printed.splitlines() if line.strip().startswith("FAIL")
    )[:200]


def lifecycle(*arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "lifecycle_recipes.cli", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    main()
