"""One recipe, the same training: 1 x 8 rows, 1 row accumulated 8 times, 2 processes x 4, plain and FSDP2.

Rows differ in length and do not fill whole batches (27 to train on, 9 held out), so that a mean of means, a
repeated row or another pairing would show. Real processes; four stages to a launch, to import upstream once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from preference_runs import COMMON, message, user, write_rows
from repository import ROOT

from lifecycle_recipes.training.batch_order import WholeBatches, by_global_length
from lifecycle_recipes.training.eval_loss import Rounds

# Of a stage, or of one with a setting of TRAIN.
RUNS = ("sft", "sft-grouped", "reward", "dpo", "kto")
ROWS, BATCH, EPOCHS = 36, 8, 2  # of 36, a quarter is held out
WORDS = "red green blue white black amber violet grey".split()
# float32 sums of the same numbers in another order differ by about 1e-7; Adam divides by a gradient's own
# size, so that eight steps carry that into the losses. Measured here: 4e-6 at most.
TOLERANCE = 5e-5


def reply(i: int) -> list[dict]:
    return message(" ".join(WORDS[(i + k) % 8] for k in range(1 + i * 5 % 11)) + ".")


ROW = {
    "sft": lambda i: {"messages": user(i) + reply(i)},
    "reward": lambda i: {"prompt": user(i), "chosen": reply(i), "rejected": reply(i + 3)},
    "kto": lambda i: {"prompt": user(i), "completion": reply(i), "label": bool(i % 2)},
}
ROW["dpo"] = ROW["reward"]
TRAIN = {
    # The desk's losses: a mean over rows and one over tokens.
    "dpo": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 5.0]},
    "sft-grouped": {"train_sampling_strategy": "group_by_length"},
}
# Of an evaluation, also over every row once. KTO's rewards are means of what a round has of a label.
EXACT = ("eval_loss", "eval_mean_token_accuracy", "eval_entropy", "eval_accuracy", "eval_margin", "eval_kl")
EXACT += ("eval_rewards/accuracies", "eval_rewards/margins")
INEXACT = {("dpo", "eval_mean_token_accuracy"), ("dpo", "eval_entropy"), ("kto", "eval_entropy")}
INEXACT |= {("kto", "eval_rewards/margins")}
# Held-out rows as the trainer of each process has them.
SCRIPT = """
import importlib, json, sys

from lifecycle_recipes import exit_status

exit_status._leave_process_group = lambda: None  # the next stage goes on in it

def keeping(module, build):
    def build_trainer(recipe, run):
        trainer = build(recipe, run)
        path = f"{recipe.train.output_dir}/../held-out-{trainer.args.process_index}.json"
        open(path, "w").write(json.dumps(trainer.eval_dataset.to_list()))
        return trainer
    return build_trainer

for words in json.loads(sys.argv[1]):
    stage = importlib.import_module(f"lifecycle_recipes.stages.{words.pop(0)}")
    stage.build_trainer = keeping(stage, stage.build_trainer)
    stage.main(words)
"""


def write_recipe(folder: Path, name: str, parent: Path) -> str:
    folder.mkdir(parents=True)
    stage = name.partition("-")[0]
    recipe = {
        "stage": stage,
        "model": {"model_name_or_path": str(parent)},
        "data": {
            "sources": [{"path": write_rows(folder / "rows.jsonl", [ROW[stage](i) for i in range(ROWS)])}],
            "eval_fraction": 0.25,
        },
        "global_batch_size": BATCH,
        "train": COMMON
        | {"output_dir": str(folder / "run"), "num_train_epochs": EPOCHS, "max_steps": -1}
        | {"learning_rate": 1e-3, "per_device_eval_batch_size": 4}
        | TRAIN.get(name, {}),
    }
    if stage in ("dpo", "kto"):
        recipe["allow"] = {"stop-token-missing": "the parent is a random model, made a moment ago"}
    del recipe["train"]["per_device_train_batch_size"]
    path = folder / f"{stage}.json"
    path.write_text(json.dumps(recipe))
    return str(path)


PROCESSES = {"whole": 1, "accumulated": 1, "two": 2, "fsdp2": 2}


def launcher(layout: str) -> list[str]:
    if PROCESSES[layout] == 1:
        return []
    if layout == "two":
        return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{layout}.yaml"]
    return [*command, "--num_processes", "2", "tests/fixtures/sharded_on_cpu.py"]


def train(folder: Path, parent: Path, layout: str, **overrides) -> dict[str, dict]:
    """One of RUNS -> {losses, eval_loss, layout, held_out}, of one launch of all of them."""
    script = folder.parent / "stages.py"
    script.write_text(SCRIPT)
    runs = [
        [
            run.partition("-")[0],
            write_recipe(folder / run, run, parent),
            *overrides.get(run, overrides.get("all", [])),
        ]
        for run in RUNS
    ]
    command = [sys.executable, *launcher(layout), str(script), json.dumps(runs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return {run: result(folder / run) for run in RUNS}


def result(folder: Path) -> dict:
    record = json.loads((folder / "run/run.json").read_text())
    history = json.loads((folder / "run/trainer_state.json").read_text())["log_history"]
    return {
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "measured": {k: v for k, v in record["metrics"].items() if k.startswith("eval_") and k in EXACT},
        "layout": record["layout"],
        "held_out": [json.loads(path.read_text()) for path in sorted(folder.glob("held-out-*.json"))],
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_dir) -> dict[str, dict[str, dict]]:
    """layout -> one of RUNS -> what came of it."""
    place = tmp_path_factory.mktemp("layouts")
    one, two = (["--per_device_train_batch_size", str(rows)] for rows in (1, 2))
    return {
        "whole": train(place / "whole", tiny_model_dir, "whole"),
        # KTO's KL needs two rows at a time.
        "accumulated": train(place / "accumulated", tiny_model_dir, "accumulated", all=one, kto=two),
        "two": train(place / "two", tiny_model_dir, "two"),
        "fsdp2": train(place / "fsdp2", tiny_model_dir, "fsdp2"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["accumulated", "two", "fsdp2"])
@pytest.mark.parametrize("run", RUNS)
def test_the_layout_does_not_change_what_is_learnt(trained, run, layout):
    whole, other = trained["whole"][run], trained[layout][run]
    assert len(whole["losses"]) == EPOCHS * 4  # 27 rows: three whole batches and a last one of 3
    assert other["losses"] == pytest.approx(whole["losses"], rel=1e-5, abs=TOLERANCE)
    exact = {name: value for name, value in whole["measured"].items() if (run, name) not in INEXACT}
    assert {name: other["measured"][name] for name in exact} == pytest.approx(exact, rel=1e-5, abs=TOLERANCE)
    assert "eval_loss" in exact
    assert max(whole["losses"]) - min(whole["losses"]) > 100 * TOLERANCE, "or nothing could be told"
    assert whole["layout"]["global_batch"] == other["layout"]["global_batch"] == BATCH
    assert other["layout"]["processes"] == PROCESSES[layout]
    assert other["layout"]["sharded"] == (layout == "fsdp2")


@pytest.mark.slow
def test_zero_3_on_two_processes_learns_what_one_process_learns(trained, tmp_path, tiny_model_dir):
    recipe = write_recipe(tmp_path / "sft", "sft", tiny_model_dir)
    command = [sys.executable, "-m", "lifecycle_recipes.cli", "run", recipe]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--layout", "zero3", "--processes", "2", "--cpu"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    whole, sharded = trained["whole"]["sft"], result(tmp_path / "sft")
    assert sharded["layout"]["zero_stage"] == 3 and sharded["layout"]["processes"] == 2
    assert sharded["losses"] == pytest.approx(whole["losses"], abs=TOLERANCE)
    assert sharded["measured"] == pytest.approx(whole["measured"], abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_every_process_holds_out_the_same_rows(trained, run):
    sets = [rows for layout in trained.values() for rows in layout[run]["held_out"]]
    assert len(sets) == 6 and all(rows == sets[0] for rows in sets) and len(sets[0]) == 9


def test_an_epoch_is_whole_batches_in_the_order_of_its_sampler():
    assert list(WholeBatches(range(10), 4, "completed")) == [*range(10), 0, 1]
    assert list(WholeBatches(range(10), 4, "dropped")) == [*range(8)]
    assert list(WholeBatches(range(10), 4, "left")) == [*range(10)]
    assert list(WholeBatches(range(3), 8, "completed")) == [0, 1, 2, 0, 1, 2, 0, 1]
    for rest in ("completed", "dropped", "left"):
        for rows in range(1, 20):
            batches = WholeBatches(range(rows), 4, rest)
            assert len(list(batches)) == len(batches), (rest, rows)


def test_rows_are_grouped_by_length_alike_in_every_layout_and_epoch():
    """Upstream is given the rows of one process; the generators of the processes may differ."""
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    lengths = [i * 7 % 50 for i in range(200)]

    def order(own_rows: int, epoch: int) -> list[int]:
        torch.manual_seed(own_rows)
        args = SimpleNamespace(seed=1, data_seed=None)
        batches = WholeBatches(
            by_global_length(LengthGroupedSampler(own_rows, lengths=lengths), BATCH, args), BATCH, "left"
        )
        batches.set_epoch(epoch)
        return list(batches)

    assert order(8, 0) == order(4, 0) == order(1, 0) and sorted(order(8, 0)) == list(range(200))
    assert order(8, 1) == order(4, 1) != order(8, 0)
    spread = [max(part) - min(part) for part in batched([lengths[i] for i in order(4, 0)], BATCH)]
    assert sum(spread) / len(spread) < 10, "rows of about one length in a global batch"


def batched(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9, 27, 64])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_held_out_row_is_read_once_and_all_processes_keep_step(rows, processes):
    dealt = [list(Rounds(rows, 4, processes, process)) for process in range(processes)]
    assert len({len(Rounds(rows, 4, processes, p)) for p in range(processes)} | set(map(len, dealt))) == 1
    for one_round in zip(*dealt, strict=True):
        assert len(set(map(len, one_round))) == 1, "what is gathered must have one shape"
    new = [
        row
        for process, batches in enumerate(dealt)
        for number, batch in enumerate(batches)
        if not (number == len(batches) - 1 and Rounds(rows, 4, processes, process).ends_in_a_repeat)
        for row in batch
    ]
    assert sorted(new) == list(range(rows))
