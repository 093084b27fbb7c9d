"""The chat templates that TRL ships."""

import importlib.util
from pathlib import Path


def upstreams(name: str) -> str:
    folder = Path(importlib.util.find_spec("trl").submodule_search_locations[0])
    return (folder / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
