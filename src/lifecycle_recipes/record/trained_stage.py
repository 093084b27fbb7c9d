"""The stage that trained a saved model: it decides what the model can be used for. No torch."""

import os
from pathlib import Path
from typing import Any

from ..finding import Refusal, refuse
from ..near_path import near_path
from .file import RUN_FILE, exported_forms, read_record
from .parents import is_local, run_of

# Stage -> what it saves, of the stages whose output generates no text.
SILENT = {
    "curate": "curated data",
    "tokenizer": "a tokenizer",
    "reward": "a reward model, which scores replies",
    "evaluate": "an evaluation",
}


def stage_of(path: str) -> str | None:
    """The stage that trained the model of a run; None for other models. Raises Refusal: missing-model."""
    if is_local(path) and not Path(path).exists():
        near = near_path(path)
        fix = f"did you mean {near}?" if near else "train it, or correct the path"
        raise refuse("missing-model", "the directory does not exist", fix, path)
    try:
        return trained_stage(read_record(_run_of(path)))
    except Refusal as refusal:
        if refusal.findings[0].code != "no-record":
            raise
        return None


def _run_of(path: str) -> str:
    """The run of a directory, also of one of its checkpoints or, if it is an export, of one of its forms."""
    above, name = os.path.split(os.path.realpath(path))
    if run_of(path) is None and os.path.exists(os.path.join(above, RUN_FILE)):
        return above if name in exported_forms(read_record(above)) else path
    return run_of(path) or path


def trained_stage(record: dict[str, Any]) -> str | None:
    """The stage that trained the model of a record: of an export, that of what it exports.

    Of a tokenizer that was saved with a resized model, that of this model; None if it was not trained here.
    """
    if resized := record.get("resized"):
        return resized.get("of_stage")
    return (record.get("export") or {}).get("of_stage") or record.get("stage")
