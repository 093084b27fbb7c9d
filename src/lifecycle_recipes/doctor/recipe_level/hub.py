"""Level 1, the Hub: checks of ids in the local cache, without the network. No torch."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from ...data.row_files import ending_of, is_glob
from ...finding import Finding
from ...recipe.pins import pinnable
from ...recipe.read import RawRecipe
from ...record.parents import is_local
from .files import maker
from .machine import is_offline

NON_COMMERCIAL = re.compile(r"(?i)(^|[-_ ])nc([-_ ]|$)|non-?commercial|research-only")
COMMIT = re.compile(r"[0-9a-f]{40}")


def find_in_hub(raw: RawRecipe) -> list[Finding]:
    """not-cached, missing-revision (both while offline), remote-code, license-non-commercial."""
    findings = []
    for kind, path, revision, where in named(raw, raw.values):
        if is_on_hub(path) and is_offline() and not maker(raw, path):
            findings += _cached(kind, path, revision, where)
    # Without the evaluate section: its models are only compared with, and are loaded without their code.
    started_from = list(named(raw, {**raw.values, "evaluate": None}))
    for kind, path, _, where in started_from:
        findings += _licence(kind, path, where)
    return list(dict.fromkeys([*findings, *_remote_code(raw, started_from)]))


def named(raw: RawRecipe, values: dict) -> Iterator[tuple[str, str, str | None, str]]:
    """(`datasets` or `models`, path or id, revision, place) of all data and models that `values` name."""
    for name, section, identity, revision in pinnable(values):
        kind = "datasets" if identity == "path" else "models"
        where = raw.place(f"{name}.{identity}", name, name.split(".")[0])
        yield kind, section[identity], section.get(revision), where


def is_on_hub(path: str) -> bool:
    """Whether a path can only be an id: neither a file nor written like one."""
    return not (is_local(path) or ending_of(path) or is_glob(path))


def _cached(kind: str, path: str, revision: str | None, where: str) -> list[Finding]:
    repository = cache() / f"{kind}--{path.replace('/', '--')}"
    what = kind.removesuffix("s")
    if not (repository / "snapshots").is_dir():
        if kind == "datasets" and (datasets_cache() / path.replace("/", "___").lower()).is_dir():
            return []
        message = f"the {what} {path} is not in the local cache, and HF_HUB_OFFLINE is set"
        return [
            Finding.warning(
                "not-cached",
                message,
                "run once with HF_HUB_OFFLINE=0, or download it with `hf download`",
                where,
            )
        ]
    revision = revision or "main"
    if (repository / "refs" / revision).is_file() or (repository / "snapshots" / revision).is_dir():
        return []
    message = f"revision {revision} of the {what} {path} is not in the local cache, and HF_HUB_OFFLINE is set"
    return [
        Finding.warning(
            "missing-revision", message, "correct the revision, or run with HF_HUB_OFFLINE=0", where
        )
    ]


def cache() -> Path:
    """The Hub's cache, as huggingface_hub finds it (constants.py)."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def datasets_cache() -> Path:
    return Path(os.environ.get("HF_DATASETS_CACHE") or cache().parent / "datasets").expanduser()


def _licence(kind: str, path: str, where: str) -> list[Finding]:
    for card in _cards(kind, path):
        if (licence := licence_of(card)) and NON_COMMERCIAL.search(licence):
            message = (
                f"the licence of {path} is {licence}: it forbids commercial use, also of models trained on it"
            )
            fix = "choose another one, or waive the finding with a reason: `allow: {license-non-commercial: ...}`"
            return [Finding.warning("license-non-commercial", message, fix, where)]
    return []


def _cards(kind: str, path: str) -> list[Path]:
    if Path(path).exists():
        directory = Path(path) if Path(path).is_dir() else Path(path).parent
        return [directory / "README.md"]
    return sorted((cache() / f"{kind}--{path.replace('/', '--')}").glob("snapshots/*/README.md"))


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


def _remote_code(raw: RawRecipe, started_from: list[tuple]) -> list[Finding]:
    if not raw.setting("train.trust_remote_code"):
        return []
    free = [
        path
        for kind, path, revision, _ in started_from
        if kind == "models" and is_on_hub(path) and not COMMIT.fullmatch(revision or "")
    ]
    if not free:
        return []
    message = f"trust_remote_code runs the current code of {free[0]}, which is not pinned to a commit"
    fix = f"pin a commit that you have reviewed: `pinned: {{{free[0]}: <40 hex digits>}}`"
    return [Finding.warning("remote-code", message, fix, raw.place("train.trust_remote_code"))]
