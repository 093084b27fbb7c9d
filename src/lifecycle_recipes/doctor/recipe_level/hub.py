"""Level 1, the Hub: checks of ids in the local cache, without the network. No torch."""

import contextlib
import functools
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ...data.row_files import ending_of, is_glob
from ...evals.library_tasks import task_datasets
from ...finding import Finding
from ...models.card_licence import licence_of
from ...recipe.pins import pinnable
from ...recipe.read import RawRecipe
from ...record.parents import is_local
from .files import maker

NON_COMMERCIAL = re.compile(r"(?i)(^|[-_ ])nc([-_ ]|$)|non-?commercial|research-only")
ASK_SECONDS = 4
SILENT: set[str] = set()  # addresses of Hubs that did not answer
COMMIT = re.compile(r"[0-9a-f]{40}")


def find_in_hub(raw: RawRecipe) -> list[Finding]:
    """not-cached, task-not-cached, missing-revision (these while offline), remote-code, license-non-commercial."""
    findings = []
    for kind, path, revision, where in named(raw, raw.values):
        made_here = raw.is_awaited(path) or maker(raw, path)
        if is_on_hub(path) and not made_here and (offline := why_offline()):
            findings += _cached(kind, path, revision, where, offline)
    findings += _tasks(raw)
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
    if tokenizer := (values.get("curate") or {}).get("tokenizer"):
        yield "models", tokenizer, None, raw.place("curate.tokenizer", "curate")


def is_on_hub(path: str) -> bool:
    """Whether a path can only be an id: neither a file nor written like one."""
    return not (is_local(path) or ending_of(path) or is_glob(path))


def _tasks(raw: RawRecipe) -> list[Finding]:
    """task-not-cached for each dataset of the evaluation's tasks. Apart from not-cached: training can do without."""
    config = raw.values.get("evaluate") or {}
    findings = []
    for path, name in task_datasets(config.get("tasks") or [], config.get("include_path")):
        if not is_on_hub(path) or not (offline := why_offline()):
            continue
        cached = datasets_cache() / path.replace("/", "___").lower()
        if any(cached.glob(f"{name or ''}*")):
            continue
        message = (
            f"an evaluation task reads the dataset {path}, which is not in the local cache, and {offline}"
        )
        given = ", ".join(repr(part) for part in (path, name) if part)
        fix = f'run once online: python -c "from datasets import load_dataset; load_dataset({given})"'
        findings.append(
            Finding.warning("task-not-cached", message, fix, raw.place("evaluate.tasks", "evaluate"))
        )
    return findings


def why_offline() -> str:
    """Why the Hub cannot be asked; empty if it answers."""
    if endpoint() in SILENT or (not is_offline() and not hub_answers()):
        SILENT.add(endpoint())
        return f"{endpoint()} does not answer"
    return "HF_HUB_OFFLINE is set" if is_offline() else ""


def go_online() -> str:
    """The fix for what `why_offline` says."""
    return "check the network or HF_ENDPOINT" if endpoint() in SILENT else "run with HF_HUB_OFFLINE=0"


def leave_silent_hub() -> None:
    """Offline from now on, if the Hub did not answer: upstream would wait most of a minute for each file.

    For a process that is or becomes one stage, or only checks. Each stage of a life asks anew.
    """
    if endpoint() in SILENT:
        os.environ["HF_HUB_OFFLINE"] = "1"


@contextlib.contextmanager
def offline_if_silent() -> Iterator[None]:
    """`leave_silent_hub` inside only."""
    before = os.environ.get("HF_HUB_OFFLINE")
    leave_silent_hub()
    try:
        yield
    finally:
        os.environ.pop("HF_HUB_OFFLINE", None)
        os.environ |= {"HF_HUB_OFFLINE": before} if before is not None else {}


def is_offline() -> bool:
    """Whether the environment disables network access for the Hub's libraries."""
    on = {"1", "ON", "YES", "TRUE"}  # huggingface_hub/constants.py
    return any(os.environ.get(name, "").upper() in on for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


@functools.cache
def hub_answers() -> bool:
    """Whether the Hub answers a request within ASK_SECONDS, in whatever way. Asked once."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint(), method="HEAD"), timeout=ASK_SECONDS)
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except urllib.error.URLError as error:
            answers.append(
                isinstance(error.reason, ssl.SSLError)
            )  # it answers; its certificate is another matter
        except (OSError, ValueError):
            answers.append(False)

    # In a thread, since no timeout bounds the look-up of a name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ASK_SECONDS)
    return answers == [True]


def endpoint() -> str:
    """The Hub's address, as huggingface_hub finds it (constants.py)."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _cached(kind: str, path: str, revision: str | None, where: str, offline: str) -> list[Finding]:
    repository = cache() / f"{kind}--{path.replace('/', '--')}"
    what = kind.removesuffix("s")
    if not (repository / "snapshots").is_dir():
        if kind == "datasets" and (datasets_cache() / path.replace("/", "___").lower()).is_dir():
            return []
        message = f"the {what} {path} is not in the local cache, and {offline}"
        return [
            Finding.warning(
                "not-cached",
                message,
                f"{go_online()}, or download it with `hf download`",
                where,
            )
        ]
    revision = revision or "main"
    if (repository / "refs" / revision).is_file() or (repository / "snapshots" / revision).is_dir():
        return []
    message = f"revision {revision} of the {what} {path} is not in the local cache, and {offline}"
    return [Finding.warning("missing-revision", message, f"correct the revision, or {go_online()}", where)]


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
