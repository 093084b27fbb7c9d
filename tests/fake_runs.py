"""Runs of recipes that train nothing: a record, weights and checkpoints of a few bytes. No torch."""

import shutil
import zipfile
from types import SimpleNamespace

import pytest

from lifecycle_recipes.record.run import Run, Stopped


def fake_recipe(directory, values=None, flags=(), **raw):
    values = {"train": {"output_dir": str(directory), "seed": 7}} | (values or {})
    fields = {"path": "r.yaml", "stage": "sft", "values": values, "text": "stage: sft\n", "overrides": []}
    fields |= {"sha256": "0" * 64, "output_dir": str(directory), "gate": [], "flags": set(flags)}
    return SimpleNamespace(raw=SimpleNamespace(**fields | raw))


def save_weights(directory, content="weights"):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_text(content)


def save_checkpoint(run_dir, step):
    directory = run_dir / f"checkpoint-{step}"
    save_weights(directory)
    with zipfile.ZipFile(directory / "optimizer.pt", "w") as archive:
        archive.writestr("data", "state" * 100)
    shutil.copy(directory / "optimizer.pt", directory / "scheduler.pt")
    (directory / "trainer_state.json").write_text("{}")
    return directory


def finish(directory, content="weights", **options):
    """A finished run with weights."""
    with Run.start(fake_recipe(directory, **options)) as run:
        save_weights(directory, content)
    return run


def stop(directory, step=None, **options):
    with pytest.raises(Stopped), Run.start(fake_recipe(directory, **options)):
        if step:
            save_checkpoint(directory, step)
        raise Stopped


def code_of(refusal) -> str:
    return refusal.value.findings[0].code
