"""Every save of a run is checked, and a run whose save is not what it trained has failed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from preference_runs import LORA, pairs, write_recipe
from small_trainer import make_trainer, plain_recipe, status, train
from spoiled_weights import codes, edit, lose

from lifecycle_recipes.finding import FAILED, Refusal
from lifecycle_recipes.record.run import Run
from lifecycle_recipes.stages import reward
from lifecycle_recipes.training import reload
from lifecycle_recipes.training import save as saving
from lifecycle_recipes.training.train import train_and_save


def spoil(trainer, monkeypatch, change) -> None:
    """After each save of the trainer's, `change` the directory."""
    save = trainer.save_model

    def save_and_spoil(path, _internal_call=False):
        save(path, _internal_call)
        change(Path(path))

    monkeypatch.setattr(trainer, "save_model", save_and_spoil)


def refuse_training(trainer) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        train(trainer)
    assert refusal.value.status == FAILED
    return refusal.value


def test_what_a_good_run_notes(tmp_path, tiny_model_dir):
    train(make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1, save_strategy="steps", save_steps=1))
    saved = json.loads((tmp_path / "run/run.json").read_text())["saved"]
    assert saved["compared"] == "logits" and saved["tensors"] == 21
    assert saved["differs"] < 1e-5 < saved["allowed"]


def other_weights(path):
    """Names, shapes and values are all in order; they are those of before training."""

    def change(tensors):
        tensors["lm_head.weight"].neg_()

    edit(path / "model.safetensors", change)


def test_a_saved_model_that_says_something_else_fails_the_run(tmp_path, tiny_model_dir, monkeypatch):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1)
    spoil(trainer, monkeypatch, other_weights)
    assert codes(refuse_training(trainer).findings) == ["saved-differs"]
    assert status(tmp_path / "run").startswith("failed: [saved-differs]")


def test_a_stale_file_that_from_pretrained_prefers_is_found(tmp_path, tiny_model_dir, monkeypatch):
    """Upstream leaves an earlier model.safetensors beside new shards, and reads it first."""
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1)

    def leave(path):
        trainer.model.save_pretrained(path, max_shard_size="100KB")
        shutil.copy(Path(tiny_model_dir, "model.safetensors"), path)

    spoil(trainer, monkeypatch, leave)
    assert codes(refuse_training(trainer).findings) == ["saved-differs"]


def test_a_checkpoint_that_is_incomplete_ends_the_run(tmp_path, tiny_model_dir, monkeypatch):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", save_strategy="steps", save_steps=2)
    spoil(trainer, monkeypatch, lambda path: edit(path / "model.safetensors", lose))
    refusal = refuse_training(trainer)
    assert codes(refusal.findings) == ["saved-incomplete"] and trainer.state.global_step == 2
    assert refusal.findings[0].where.endswith("checkpoint-2")


def test_a_model_that_cannot_be_loaded_is_named(tmp_path, tiny_model_dir, monkeypatch):
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1)

    def unload(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"model_type": "no-such-model"}))

    spoil(trainer, monkeypatch, unload)
    (found,) = refuse_training(trainer).findings
    assert found.code == "saved-incomplete" and "cannot be loaded" in found.message


def test_nothing_is_pushed_before_it_is_checked(tmp_path, tiny_model_dir, monkeypatch):
    pushed = []
    trainer = make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1)
    trainer.args.push_to_hub = True
    monkeypatch.setattr(trainer, "push_to_hub", lambda *args, **options: pushed.append(args))
    train(trainer)
    assert len(pushed) == 1
    trainer = make_trainer(tiny_model_dir, tmp_path / "bad", max_steps=1)
    trainer.args.push_to_hub = True
    monkeypatch.setattr(trainer, "push_to_hub", lambda *args, **options: pushed.append(args))
    spoil(trainer, monkeypatch, other_weights)
    refuse_training(trainer)
    assert len(pushed) == 1


def test_without_memory_for_a_second_model_the_run_says_so(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(reload, "_free_host_memory", lambda: 1000)
    trainer, recipe = (
        make_trainer(tiny_model_dir, tmp_path / "run", max_steps=1),
        plain_recipe(tmp_path / "run"),
    )
    with Run(recipe.raw) as run:
        assert train_and_save(trainer, recipe, run) is None
    assert codes(run.findings) == ["saved-not-compared"]
    assert status(tmp_path / "run") == "done"


@pytest.mark.parametrize("model", [{}, LORA])
def test_a_reward_model_is_loaded_once_and_measured_as_loaded(tmp_path, tiny_model_dir, monkeypatch, model):
    from lifecycle_recipes.models import saved

    loads, load = [], saved._load
    monkeypatch.setattr(saved, "_load", lambda path, *args: loads.append(path) or load(path, *args))
    reward.main([write_recipe(tmp_path, "reward", pairs(), tiny_model_dir, model=model)])
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["saved"]["differs"] < 1e-5 and "pair_accuracy" in record["metrics"]
    assert loads == [str(tmp_path / "run")]


# Layouts that no test here can run


def test_fsdp_and_zero3_are_told_to_consolidate():
    """No GPU is needed to see that the setting is changed; accelerate's own plugin takes it."""
    from accelerate import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    zero = SimpleNamespace(gather_16bit_weights_on_model_save=False)
    trainer = SimpleNamespace(
        is_fsdp_enabled=True,
        accelerator=SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)),
        deepspeed=SimpleNamespace(_config=SimpleNamespace(zero_config=zero)),
    )
    saving.consolidate(trainer)
    # What transformers' Trainer.save_model looks for.
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type) and zero.gather_16bit_weights_on_model_save


def test_a_sharded_checkpoint_without_its_shards_is_named(tmp_path):
    trainer = SimpleNamespace(deepspeed=None)
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        (tmp_path / name).mkdir()
        for file in (".metadata", "__0_0.distcp", "__1_0.distcp"):
            (tmp_path / name / file).write_bytes(b"x")
    assert saving.find_lost_shards(trainer, tmp_path) == []
    (tmp_path / "optimizer_0/__1_0.distcp").write_bytes(b"")
    (tmp_path / "pytorch_model_fsdp_0/.metadata").unlink()
    (found,) = saving.find_lost_shards(trainer, tmp_path)
    assert found.code == "saved-incomplete" and "2 files" in found.message
