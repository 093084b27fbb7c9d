"""`pinned: {dataset or model id: revision}`: one place that fixes what a recipe means next year. No torch."""

from collections.abc import Iterator
from typing import Any

MODEL_SECTIONS = ("model", "reward", "value")
SOURCE_LISTS = ("sources", "eval_sources")


def apply_pins(values: dict[str, Any], pinned: dict[str, str]) -> None:
    """Write the pinned revision into every source and model section of `values` that gives none itself."""
    for section, identity, revision in pinnable(values):
        if section.get(revision) is None and section.get(identity) in pinned:
            section[revision] = pinned[section[identity]]


def pinnable(values: dict[str, Any]) -> Iterator[tuple[dict, str, str]]:
    """(mapping, key of its id, key of its revision) of everything in a recipe that a pin can fix."""
    data = values.get("data") or {}
    for name in SOURCE_LISTS:
        for source in data.get(name) or []:
            yield source, "path", "revision"
    for name in MODEL_SECTIONS:
        if values.get(name):
            yield values[name], "model_name_or_path", "model_revision"
