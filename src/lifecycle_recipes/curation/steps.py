"""The steps of a recipe: their modules, settings and keys of their scores. No torch."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from ..recipe.read import build
from .documents import Part


@dataclass(frozen=True)
class StepOf:
    """One step of a recipe. name: its module, and its key in the recipe. label: unique in the recipe.

    values: its settings as the recipe has them. key: of all that determines its scores, besides the texts.
    """

    name: str
    label: str
    values: dict[str, Any]
    key: str

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"{__package__}.{self.name}")

    @cached_property
    def settings(self) -> Any:
        return settings_of(self.name, self.values)[1]

    @cached_property
    def part(self) -> Part:
        return getattr(self.settings, "by", "row")

    @property
    def in_main_process(self) -> bool:
        """Whether its scores need a model, which is loaded once."""
        decides = getattr(self.module, "in_main_process", None)
        return bool(decides and decides(self.settings))


def steps_of(given: list[dict[str, Any]]) -> list[StepOf]:
    """The steps of `curate.steps`, as the recipe has them."""
    named = [(name, values) for item in given for name, values in item.items() if values is not None]
    seen: dict[str, int] = {}
    steps = []
    for name, values in named:
        seen[name] = seen.get(name, 0) + 1
        label = name.replace("_", "-") + (f"-{seen[name]}" if seen[name] > 1 else "")
        steps.append(make_step(name, label, values))
    return steps


def settings_of(name: str, values: dict[str, Any]) -> tuple[ModuleType, Any]:
    """(the module of a step, its settings). Reads none of the files that the settings name."""
    return importlib.import_module(f"{__package__}.{name}"), build(_settings_class(name), values)


def make_step(name: str, label: str, values: dict[str, Any]) -> StepOf:
    module, settings = settings_of(name, values)
    by_content = getattr(module, "scored_by", None)
    parts = by_content(settings) if by_content else {key: getattr(settings, key) for key in module.SCORED}
    text = json.dumps([name, parts, getattr(settings, "by", "row"), _versions(name), _code()], sort_keys=True)
    return StepOf(name, label, values, hashlib.sha256(text.encode()).hexdigest())


def _settings_class(name: str) -> type:
    module = importlib.import_module(f"{__package__}.{name}")
    return getattr(module, "".join(part.capitalize() for part in name.split("_")))


def _versions(name: str) -> dict[str, str]:
    packages = importlib.import_module(f"{__package__}.{name}").PACKAGES
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


@functools.cache
def _code() -> str:
    """A hash of this room's code: after a change of it, nothing is taken from the cache."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
