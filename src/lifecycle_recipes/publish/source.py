"""The trained model that is exported: where it is, how it was loaded in training, why it cannot be. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..finding import refuse
from ..models.adapters import ADAPTER_CONFIG, adapter_has_head, is_adapter, model_below
from ..models.config_file import find_file, read_json
from ..models.quantised_base import quantisation_of
from ..record.parents import is_local
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


def is_reward(path: str, revision: str = "main") -> bool:
    if is_adapter(path):
        return adapter_has_head(path)
    names = read_json(path, "config.json", revision).get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in names)
