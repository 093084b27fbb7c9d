"""Is there a lottery ticket in the desk's base model? A dense training, and sparse ones from its early weights.

    python benchmarks/lottery_ticket.py
    python benchmarks/lottery_ticket.py --seeds 7 8 9 --sparsity 0.5 0.9 --steps 300 --rewind 20

Frankle and Carbin 2019 (arXiv:1803.03635), with the late rewinding of Frankle et al. 2020 (arXiv:1912.05671):

dense    the stage pretrain on recipes/desk/03-pretrain.yaml, on the text of the wiki, with fewer steps
pruned   the dense model, its smallest weights of every linear layer set to zero, not trained again
ticket   the dense model's weights after step --rewind, those that were pruned at zero, trained to the end
random   the same with as many random weights of every layer at zero

Rewinding needs no checkpoint: a sparse training is the dense one again, to the same bits (same seed, rows, schedule and
optimizer), until the mask takes effect after step --rewind. The weights there are compared with the dense run's; a
difference ends the study. It prunes once; the papers prune in rounds, at several times the cost.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_layouts import ROOT, table
from transformers import TrainerCallback

from lifecycle_recipes.record import environment

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer

WIKI = "data/desk/world/wiki.jsonl"
FIRST = "first-weights"
PRUNED = "pruned.json"  # sparsity -> held-out loss of the pruned dense model


class HoldMask(TrainerCallback):
    """Keeps masked weights at zero from the end of step `start` on; 0: from the beginning.

    masks: name of a parameter -> bool tensor of its shape, False where the weight stays zero. Masked gradients are
    zero, too, before they are clipped: else they would take part in the norm. Adam moves a weight without a gradient
    by its old momentum: so the weights are masked again after every step.
    """

    def __init__(self, masks: dict[str, torch.Tensor], start: int):
        self.masks, self.start = masks, start

    def on_train_begin(self, args, state, control, model, **kwargs):
        if self.start == 0:
            self.begin(model)

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == self.start:
            self.begin(model)
        elif state.global_step > self.start:
            self.apply(model)

    def begin(self, model: PreTrainedModel) -> None:
        self.masks = {name: mask.to(model.get_parameter(name).device) for name, mask in self.masks.items()}
        self.apply(model)
        for name, mask in self.masks.items():
            model.get_parameter(name).register_hook(lambda gradient, mask=mask: gradient * mask)

    def apply(self, model: PreTrainedModel) -> None:
        import torch

        with torch.no_grad():
            for name, mask in self.masks.items():
                model.get_parameter(name).mul_(mask)


class SaveAt(TrainerCallback):
    """Writes the weights after one step (0: the first ones), to compare runs there. Added after the mask, which
    is then in effect.
    """

    def __init__(self, step: int):
        self.step = step

    def on_train_begin(self, args, state, control, model, **kwargs):
        if self.step == 0:
            model.save_pretrained(Path(args.output_dir) / FIRST)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step == self.step


def masks_of(pruned: PreTrainedModel) -> dict[str, torch.Tensor]:
    from lifecycle_recipes.publish.pruning import linear_layers

    return {f"{name}.weight": layer.weight != 0 for name, layer in linear_layers(pruned).items()}


def shuffled(masks: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Random masks with as many zeros in each layer."""
    import torch

    order = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=order)].view_as(mask)
        for name, mask in masks.items()
    }


# One training, in a process of its own


def train_one(masks: str, start: int, sparsities: list[float], argv: list[str]) -> None:
    """The stage pretrain, with the masks of a file; without one, the dense model is pruned and measured afterwards."""
    from safetensors.torch import load_file

    from lifecycle_recipes.stages.pretrain import PretrainRecipe, build_trainer
    from lifecycle_recipes.training.stage import stage, train

    with stage(PretrainRecipe, argv) as (recipe, run):
        trainer = build_trainer(recipe, run)
        if masks:
            trainer.add_callback(HoldMask(load_file(masks), start))
        trainer.add_callback(SaveAt(start))
        train(trainer, recipe, run)
        if not masks:
            prune_dense(trainer, sparsities, recipe.train.seed, Path(recipe.train.output_dir))


def prune_dense(trainer: Trainer, sparsities: list[float], seed: int, directory: Path) -> None:
    """Write masks by magnitude and random ones, and the held-out loss of the pruned model, of every sparsity."""
    from safetensors.torch import save_file

    from lifecycle_recipes.publish.pruning import prune_smallest

    found = {}
    whole = copy.deepcopy(trainer.model)
    for sparsity in sparsities:
        pruned = copy.deepcopy(whole)
        prune_smallest(pruned, sparsity, "layer")
        masks = masks_of(pruned)
        save_file(masks, directory / f"ticket-{sparsity}.masks")
        save_file(shuffled(masks, seed), directory / f"random-{sparsity}.masks")
        trainer.model.load_state_dict(pruned.state_dict())
        found[str(sparsity)] = trainer.evaluate()["eval_loss"]
    (directory / PRUNED).write_text(json.dumps(found))


# The study


def main() -> None:
    parser = argparse.ArgumentParser(
        "lottery_ticket.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8], metavar="N")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.95], metavar="SHARE")
    parser.add_argument("--steps", type=int, default=150, metavar="N", help="default: 150")
    parser.add_argument(
        "--rewind", type=int, default=10, metavar="STEP", help="default: 10; 0: the first weights"
    )
    parser.add_argument("--out", type=Path, help="directory of the trainings (default: one that is removed)")
    args = parser.parse_args()
    if not 0 <= args.rewind < args.steps or not all(0 < share < 1 for share in args.sparsity):
        parser.error("--rewind must be below --steps, and every --sparsity between 0 and 1")
    with tempfile.TemporaryDirectory(prefix="lottery-") as folder:
        rows = study(args, args.out or Path(folder))
    machine = environment.hardware()["cpu"]
    facts = (
        f"{date.today()}, {machine}, {args.steps} steps of about 2,000 tokens, rewound to step {args.rewind}."
    )
    print(table(facts, ("seed", "sparsity", "dense", "pruned", "ticket", "random"), rows))


def study(args: argparse.Namespace, folder: Path) -> list[tuple[str, ...]]:
    """(seed, sparsity, held-out losses in nats per token) of every pair."""
    tokenizer, rows = folder / "tokenizer", []
    settings = {"tokenizer.output_dir": tokenizer, "data.sources": json.dumps([{"path": WIKI}]), "gate": "[]"}
    start(["-m", "lifecycle_recipes.stages.tokenizer", "recipes/desk/02-tokenizer.yaml"], settings)
    for seed in args.seeds:
        dense = folder / f"dense-{seed}"
        whole = train(args, tokenizer, seed, dense)
        pruned = json.loads((dense / PRUNED).read_text())
        for sparsity in args.sparsity:
            losses = [whole, pruned[str(sparsity)]]
            for kind in ("ticket", "random"):
                masks, out = dense / f"{kind}-{sparsity}.masks", folder / f"{kind}-{sparsity}-{seed}"
                losses.append(train(args, tokenizer, seed, out, masks))
                require_rewound(dense, out, masks, args.rewind)
            rows.append((str(seed), f"{sparsity:.0%}", *(f"{loss:.3f}" for loss in losses)))
    return rows


def train(args: argparse.Namespace, tokenizer: Path, seed: int, out: Path, masks: Path | str = "") -> float:
    """The held-out loss of one training."""
    settings = {
        "architecture.tokenizer": tokenizer,
        "data.sources": json.dumps([{"path": WIKI}]),
        "train.output_dir": out,
        "train.seed": seed,
        "train.max_steps": args.steps,
        "train.warmup_steps": max(args.steps // 20, 1),
        "train.lr_scheduler_kwargs": json.dumps({"num_decay_steps": 2 * args.steps // 5}),
        "train.save_steps": args.steps,
        "train.save_total_limit": 2,
        "evaluate": "null",
        "gate": "[]",
    }
    shares = ",".join(map(str, args.sparsity))
    start(
        [__file__, "--one", str(masks), str(args.rewind), shares, "recipes/desk/03-pretrain.yaml"], settings
    )
    loss = json.loads((out / "run.json").read_text())["metrics"]["eval_loss"]
    print(f"{out.name} {loss:.4f}", file=sys.stderr, flush=True)
    return loss


def start(command: list[str], settings: dict) -> None:
    command = [
        sys.executable,
        *command,
        *(p for key, value in settings.items() for p in (f"--{key}", str(value))),
    ]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}")


def require_rewound(dense: Path, sparse: Path, masks: Path, step: int) -> None:
    """Exit unless the sparse run had the dense one's weights at `step` where they are kept, and ends with its zeros."""
    from safetensors.torch import load_file

    holds = load_file(masks)
    end = load_file(sparse / "model.safetensors")
    same = all(not end[name][~mask].any() for name, mask in holds.items())
    place = f"checkpoint-{step}" if step else FIRST
    early, theirs = (load_file(run / place / "model.safetensors") for run in (sparse, dense))
    same &= all(early[n].equal(weight * holds[n] if n in holds else weight) for n, weight in theirs.items())
    if not same:
        sys.exit(f"{sparse.name} was not rewound to step {step} of {dense.name}, or its mask did not hold")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        file, step, shares, *rest = sys.argv[2:]
        train_one(file, int(step), list(map(float, shares.split(","))), rest)
    else:
        main()
