"""The licence that the card of a model or data set names. No torch."""

import re
from pathlib import Path
from typing import Literal

import yaml


def licence_of(card: Path) -> str | None:
    """`license` (and `license_name`) of a card's front matter; None without one."""
    try:
        text = card.read_text(encoding="utf-8")
        front = re.match(r"---\n(.*?)\n---", text, re.S)
        values = yaml.safe_load(front[1]) if front else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(values, dict) or not values.get("license"):
        return None
    named = values["license"] if isinstance(values["license"], list) else [values["license"]]
    return ", ".join(map(str, [*named, *filter(None, [values.get("license_name")])]))


def hub_licence(kind: Literal["model", "dataset"], name: str, revision: str | None = None) -> str | None:
    """`licence_of` a repository of the Hub, or of the cache while offline; None if it cannot be read."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        card = hf_hub_download(name, "README.md", repo_type=kind, revision=revision)
    except (HfHubHTTPError, OSError, ValueError):  # LocalEntryNotFoundError is both of the latter
        return None
    return licence_of(Path(card))
