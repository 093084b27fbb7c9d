"""The study of the lottery ticket: masks hold while a real Trainer trains, and rewinding gives the early weights."""

import os
import subprocess
import sys

import pytest
import torch
from repository import ROOT
from safetensors.torch import load_file
from small_trainer import make_trainer
from transformers import TrainerCallback

STUDY = ROOT / "benchmarks/lottery_ticket.py"


@pytest.fixture
def lottery(monkeypatch):
    monkeypatch.syspath_prepend(STUDY.parent)
    import lottery_ticket

    return lottery_ticket


class Snapshots(TrainerCallback):
    """The weights after every step; added after the mask, so that they are what the next step starts from."""

    def __init__(self):
        self.after = {}

    def on_step_end(self, args, state, control, model, **kwargs):
        self.after[state.global_step] = {name: w.detach().clone() for name, w in model.named_parameters()}


def trained(tiny_model_dir, directory, *callbacks) -> dict[int, dict[str, torch.Tensor]]:
    trainer = make_trainer(tiny_model_dir, directory, max_grad_norm=0.1)
    snapshots = Snapshots()
    for callback in (*callbacks, snapshots):
        trainer.add_callback(callback)
    trainer.train()
    return snapshots.after


def make_masks(tiny_model_dir, lottery) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    from lifecycle_recipes.publish.pruning import prune_smallest

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    prune_smallest(model, 0.6, "layer")
    return lottery.masks_of(model)


@pytest.mark.model
@pytest.mark.parametrize("start", [0, 2])
def test_the_mask_holds_and_the_kept_weights_are_those_of_the_early_step(
    tiny_model_dir, tmp_path, lottery, start
):
    masks = make_masks(tiny_model_dir, lottery)
    assert len(masks) == 14 and not any("lm_head" in name for name in masks)
    dense = trained(tiny_model_dir, tmp_path / "dense")
    sparse = trained(tiny_model_dir, tmp_path / "sparse", lottery.HoldMask(masks, start))
    for step, weights in sparse.items():
        for name, weight in weights.items():
            mask = masks.get(name, torch.ones_like(weight, dtype=torch.bool))
            if step < start:
                assert torch.equal(weight, dense[step][name])
            else:
                assert not weight[~mask].any()  # exactly zero, after Adam's step too
            if step == start:
                assert torch.equal(weight[mask], dense[step][name][mask])
    last, first = sparse[6], sparse[max(start, 1)]
    for name, mask in masks.items():
        assert (last[name][mask] != first[name][mask]).float().mean() > 0.99  # the kept ones are trained


@pytest.mark.model
def test_masks_are_on_the_device_of_the_weights(tiny_model_dir, lottery):
    """Here a device without data: masks are read on the CPU."""
    from transformers import AutoModelForCausalLM

    mask = lottery.HoldMask(make_masks(tiny_model_dir, lottery), 0)
    mask.begin(AutoModelForCausalLM.from_pretrained(tiny_model_dir).to("meta"))
    assert {held.device.type for held in mask.masks.values()} == {"meta"}


@pytest.mark.model
@pytest.mark.parametrize("step", [0, 2])
def test_the_weights_of_the_step_are_written_as_the_mask_left_them(tiny_model_dir, tmp_path, lottery, step):
    masks = make_masks(tiny_model_dir, lottery)
    place = tmp_path / "run" / (f"checkpoint-{step}" if step else lottery.FIRST)
    trained(tiny_model_dir, tmp_path / "run", lottery.HoldMask(masks, step), lottery.SaveAt(step))
    early = load_file(place / "model.safetensors")
    assert all(not early[name][~mask].any() for name, mask in masks.items())
    first = load_file(f"{tiny_model_dir}/model.safetensors")
    assert all(first[name].equal(early[name]) == (step == 0) for name in first if name not in masks)


@pytest.mark.model
def test_masked_gradients_do_not_take_part_in_clipping(tiny_model_dir, tmp_path, lottery):
    """Otherwise the kept weights would get smaller steps than in a network that has only these weights."""
    masks, norms = make_masks(tiny_model_dir, lottery), []

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            for name, mask in masks.items():
                assert not model.get_parameter(name).grad[~mask].any()
            norms.append(torch.cat([w.grad.flatten() for w in model.parameters()]).norm().item())

    trained(tiny_model_dir, tmp_path / "sparse", lottery.HoldMask(masks, 0), Gradients())
    assert len(norms) == 6 and norms == pytest.approx([0.1] * 6, rel=1e-3)


@pytest.mark.model
def test_random_masks_have_as_many_zeros_in_each_layer(tiny_model_dir, lottery):
    masks = make_masks(tiny_model_dir, lottery)
    other = lottery.shuffled(masks, 7)
    for name, mask in masks.items():
        assert other[name].sum() == mask.sum() == mask.numel() - round(0.6 * mask.numel())
        assert not torch.equal(other[name], mask)
        assert torch.equal(other[name], lottery.shuffled(masks, 7)[name])


@pytest.mark.model
@pytest.mark.parametrize("step", [0, 2])
def test_a_run_that_was_not_rewound_ends_the_study(tmp_path, lottery, step):
    from safetensors.torch import save_file

    mask = {"a.weight": torch.tensor([True, False, True])}
    save_file(mask, tmp_path / "masks")

    def save(run, early, end):
        place = tmp_path / run / (f"checkpoint-{step}" if step else lottery.FIRST)
        place.mkdir(parents=True, exist_ok=True)
        save_file({"a.weight": torch.tensor(early)}, place / "model.safetensors")
        save_file({"a.weight": torch.tensor(end)}, tmp_path / run / "model.safetensors")

    save("dense", [1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    save("sparse", [1.0, 0.0, 3.0], [5.0, 0.0, 6.0])
    lottery.require_rewound(tmp_path / "dense", tmp_path / "sparse", tmp_path / "masks", step)
    for early, end in (([1.0, 0.0, 3.5], [5.0, 0.0, 6.0]), ([1.0, 0.0, 3.0], [5.0, 0.1, 6.0])):
        save("sparse", early, end)
        with pytest.raises(SystemExit, match="was not rewound"):
            lottery.require_rewound(tmp_path / "dense", tmp_path / "sparse", tmp_path / "masks", step)


@pytest.mark.model
def test_help_shows_an_example(lottery, monkeypatch, capsys):
    for arguments, status in ((["--help"], 0), (["--rewind", "200"], 2), (["--sparsity", "1.5"], 2)):
        monkeypatch.setattr(sys, "argv", ["lottery_ticket.py", *arguments])
        with pytest.raises(SystemExit) as end:
            lottery.main()
        assert end.value.code == status
    shown = capsys.readouterr()
    assert (
        "python benchmarks/lottery_ticket.py --seeds" in shown.out and "--rewind must be below" in shown.err
    )


@pytest.mark.slow
def test_the_study_fills_its_table(tmp_path):
    """Three trainings of the desk's base model of 6 steps; what the study itself compares is sound."""
    command = [
        sys.executable,
        str(STUDY),
        "--seeds",
        "7",
        "--sparsity",
        "0.5",
        "--steps",
        "6",
        "--rewind",
        "2",
    ]
    environ = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], env=environ, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    last = done.stdout.strip().splitlines()[-1].split("|")
    assert last[1].strip() == "7" and all(1 < float(loss) < 9 for loss in last[3:7])
    masks = load_file(tmp_path / "dense-7/ticket-0.5.masks")
    end = load_file(tmp_path / "ticket-0.5-7/model.safetensors")
    assert sum(int((end[name] == 0).sum()) for name in masks) == sum(m.numel() for m in masks.values()) / 2
