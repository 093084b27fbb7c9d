"""The trained model that is exported: where it is, how it was loaded in training, why it cannot be. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..finding import Refusal, refuse
from ..models.adapters import ADAPTER_CONFIG, adapter_has_head, is_adapter, model_below
from ..models.config_file import find_file, read_json
from ..record.file import read_record
from ..record.parents import is_local, run_of
from .config import ExportedModel, Sibling

if TYPE_CHECKING:
    import trl


@dataclass(frozen=True)
class Source:
    """What is exported. path: run, directory or Hub id. quantised: how the base of a QLoRA adapter was loaded.

    weight, average: of path, and the models with which it is averaged.
    """

    path: str
    revision: str
    quantised: trl.ModelConfig | None
    is_reward: bool
    weight: float = 1.0
    average: tuple[Sibling, ...] = ()


def find_source(model: ExportedModel) -> Source:
    """Raises Refusal not-exportable."""
    path, revision = model.model_name_or_path, model.model_revision
    if reasons := find_in_source(path, revision):
        raise refuse("not-exportable", *reasons, path)
    averaged = model.weight, tuple(model.average)
    return Source(path, revision, quantisation_of(path), is_reward(path, revision), *averaged)


def find_in_source(path: str, revision: str = "main") -> tuple[str, str] | None:
    """(why a model cannot be exported, the fix); None if it can. Of a Hub id, the files of the cache or the Hub."""
    if not is_local(path) and find_file(path, ADAPTER_CONFIG, revision):
        return "an adapter on the Hub is not merged from there", "download it, and give its directory"
    config = read_json(model_below(path), "config.json", revision)
    if config.get("quantization_config"):
        return "its weights are quantised already", "export the model that they were made from"
    if config.get("auto_map"):
        return "it needs code of its own repository", "export a family that transformers contains"
    return None


def quantisation_of(path: str) -> trl.ModelConfig | None:
    """The model section of the run at `path`, if it is an adapter that was trained on a quantised base."""
    if not (settings := quantised_settings(path)):
        return None
    from trl import ModelConfig

    return ModelConfig(**settings)


def quantised_settings(path: str) -> dict[str, Any]:
    """The model section of that run, as in its record; {} for other models."""
    if not is_adapter(path):
        return {}
    try:
        settings = read_record(run_of(path) or path)["settings"]["model"]
    except (Refusal, KeyError):
        return {}
    return settings if settings.get("load_in_4bit") or settings.get("load_in_8bit") else {}


def is_reward(path: str, revision: str = "main") -> bool:
    if is_adapter(path):
        return adapter_has_head(path)
    names = read_json(path, "config.json", revision).get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in names)
