"""What curation is worth: the desk's base model on the raw pile and on the curated text, at equal tokens.

    python benchmarks/raw_against_curated.py
    python benchmarks/raw_against_curated.py --seeds 7 8 9 --steps 1000

Needs runs/desk/01-curate and 02-tokenizer (make curate tokenizer): both sides use the same tokenizer. They differ in
the rows alone, and are measured on the held-out clean wiki: on all its pages, and on those that contain no question
of the test, so that curation leaves them as they are. Each training runs on one thread.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from statistics import mean

from gpu_layouts import ROOT, table

from lifecycle_recipes.record import environment

ROWS = {"raw pile": "data/desk/world/raw.jsonl", "curated": "runs/desk/01-curate/train.jsonl"}
MEASURED = {
    "bits per byte": "desk_wiki.bits_per_byte",
    "of pages without test questions": "desk_clean.bits_per_byte",
    "facts": "desk_facts.acc",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "raw_against_curated.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9], metavar="N")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="default: 500")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="trainings (default: 2)")
    args = parser.parse_args()
    jobs = [(name, seed) for seed in args.seeds for name in ROWS]
    with tempfile.TemporaryDirectory(prefix="raw-") as folder, ThreadPoolExecutor(args.at_once) as pool:
        write_tasks(Path(folder))
        found = dict(
            zip(jobs, pool.map(lambda job: train(Path(folder), *job, args.steps), jobs), strict=True)
        )
    rows = []
    for name in ROWS:
        rows += [(name, str(seed), *map(shown, found[name, seed])) for seed in args.seeds]
        means = map(mean, zip(*(found[name, seed] for seed in args.seeds), strict=True))
        rows.append((f"**{name}**", "mean", *map(shown, means)))
    machine = environment.hardware()["cpu"]
    facts = f"{date.today()}, {machine}, {args.steps} steps of about 2,000 tokens."
    print(table(facts, ("trained on", "seed", *MEASURED), rows))


def write_tasks(folder: Path) -> None:
    """The desk's tasks, and desk_clean: desk_wiki on the held-out pages that curation leaves as they are."""
    held_out, curated, clean = (
        "data/desk/world/wiki_heldout.jsonl",
        folder / "held-out",
        folder / "clean.jsonl",
    )
    sources = [{"path": held_out, "license": "apache-2.0"}]
    lifecycle(
        "recipes/desk/01-curate.yaml",
        {"data.sources": json.dumps(sources), "curate.output_dir": curated, "gate": "[]"},
    )
    edited = {json.loads(line)["id"] for line in (curated / "edits.jsonl").open()}
    pages = (curated / "train.jsonl").read_text().splitlines(keepends=True)
    clean.write_text("".join(page for page in pages if json.loads(page)["id"] not in edited))
    tasks = folder / "tasks"
    shutil.copytree(ROOT / "data/desk/tasks", tasks)
    for file in tasks.glob("*.yaml"):
        file.write_text(file.read_text().replace("../world", str(ROOT / "data/desk/world")))
    wiki = (tasks / "desk_wiki.yaml").read_text().replace("desk_wiki", "desk_clean")
    (tasks / "desk_clean.yaml").write_text(wiki.replace(str(ROOT / held_out), str(clean)))


def lifecycle(recipe: str, settings: dict) -> None:
    """Run a recipe with other settings."""
    command = [sys.executable, "-m", "lifecycle_recipes.cli", "run", recipe]
    command += [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{recipe} ended with status {done.returncode}:\n{done.stderr[-3000:]}")


def train(folder: Path, name: str, seed: int, steps: int) -> tuple[float, ...]:
    """The metrics of one training."""
    out = folder / f"{name.split()[0]}-{seed}"
    settings = {
        "train.max_steps": steps,
        "train.lr_scheduler_kwargs": json.dumps({"num_decay_steps": 2 * steps // 5}),
        "train.seed": seed,
        "train.output_dir": out,
        "data.sources": json.dumps([{"path": ROWS[name]}]),
        "evaluate": json.dumps(
            {"tasks": ["desk_facts", "desk_wiki", "desk_clean"], "include_path": str(folder / "tasks")}
        ),
        "gate": "[]",
    }
    lifecycle("recipes/desk/03-pretrain.yaml", settings)
    metrics = json.loads((out / "run.json").read_text())["metrics"]
    print(out.name, *(f"{key} {metrics[key]:.4f}" for key in MEASURED.values()), file=sys.stderr, flush=True)
    return tuple(metrics[key] for key in MEASURED.values())


def shown(value: float) -> str:
    return f"{value:.3f}"


if __name__ == "__main__":
    main()
