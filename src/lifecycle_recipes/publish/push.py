"""`lifecycle push RUN`: a finished run to the Hub, with its card and its whole chain of records. No torch.

What is pushed is listed (FILES), so that checkpoints, replies and left-out rows never are. It goes up as one commit: a
push that fails leaves the repository as it was, and large files that were sent are not sent again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exit_status import Stopped
from ..finding import FAILED, GATE_FAILED, Finding, Refusal, refuse
from ..models.adapters import ADAPTER_CONFIG, is_adapter
from ..models.safetensors_files import find_pickles
from ..record.file import HELD_OUT, LEDGER_FILE, RUN_FILE, TRAIN, read_record
from ..record.gate import judge
from ..record.parents import is_local
from ..record.weight_files import find_unreadable
from ..redact import redact
from .card import card
from .lineage import ancestors, lineage_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Of a model's directory; of a run of curation.
FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.gguf",
    "Modelfile",
)
ROWS = (TRAIN, HELD_OUT, LEDGER_FILE)
RECORDS = "lifecycle"  # directory of the repository for the records
# Of a record: which process of which machine wrote it is nobody's business.
PRIVATE = ("process",)
BINARY = (".safetensors", ".gguf")


@dataclass
class Push:
    """What goes where. form: a directory of an export, such as int8. branch, tag: of the repository."""

    run: str
    repo: str
    form: str | None = None
    license: str | None = None
    public: bool = False
    branch: str = "main"
    tag: str | None = None
    message: str | None = None
    allow_failed_gate: bool = False
    dry_run: bool = False
    failed_gates: list[str] = field(default_factory=list)


def push(what: Push) -> str:
    """Push a finished run; returns what to print: the files and the card with `dry_run`, else the address.

    Raises Refusal: no-record, parent-unfinished, gate-failed (exit status 3), missing-model, parent-unreadable,
    saved-pickled, push-local-base, license-unknown, secret, repo-public, push-failed (exit status 1).
    """
    record = check(what)
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        staged = Path(folder)
        collect(what, record, staged)
        require_no_secret(staged)
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        if what.dry_run:
            sizes = [f"{file.stat().st_size:>15,}  {file.relative_to(staged)}" for file in files]
            head = f"{what.repo}, {'public' if what.public else 'private'}, branch {what.branch}: {len(files)} files"
            return "\n".join([head, *sizes, "", (staged / "README.md").read_text(encoding="utf-8")])
        return upload(what, record, staged)


def check(what: Push) -> dict[str, Any]:
    """The record of the run, if it may be published."""
    record = read_record(what.run)
    if record["status"] != "done":
        message = f"this run is not finished: its status is {record['status']}"
        raise refuse("parent-unfinished", message, "run the stage to its end", what.run)
    what.failed_gates = [verdict.line for verdict in judge(what.run) if not verdict.ok]
    if what.failed_gates and not what.allow_failed_gate:
        fix = "publish a run that passes, or pass --allow-failed-gate: the card then names the lines"
        raise refuse(
            "gate-failed", f"the gate failed: {'; '.join(what.failed_gates)}", fix, what.run, GATE_FAILED
        )
    source = source_of(what)
    if record.get("stage") != "curate":
        if not any(found_in(source, ("*.safetensors", "model.gguf", "tokenizer.json"))):
            below = sorted(place.name for place in Path(what.run).iterdir() if place.is_dir())
            fix = f"the directories are {', '.join(below)}" if what.form else "push a run that saved a model"
            raise refuse("missing-model", "this directory has no model", fix, str(source))
        if unreadable := find_unreadable(source):
            raise refuse("parent-unreadable", unreadable[1], "run the stage again", unreadable[0])
        if findings := find_pickles(str(source)):
            raise Refusal(*findings)
        require_public_base(str(source))
    if not what.license:
        known = sorted({name for names in licenses(what.run).values() for name in names})
        message = "the licence is not known" + (f"; that of the data is {', '.join(known)}" if known else "")
        raise refuse("license-unknown", message, "pass --license, such as `--license apache-2.0`", what.run)
    return record


def source_of(what: Push) -> Path:
    return Path(what.run) / what.form if what.form else Path(what.run)


def require_public_base(path: str) -> None:
    """Raises Refusal push-local-base for an adapter whose base is a local directory: nobody else could load it."""
    if not is_adapter(path):
        return
    base = json.loads((Path(path) / ADAPTER_CONFIG).read_text(encoding="utf-8")).get(
        "base_model_name_or_path"
    )
    if base and not is_local(base):
        return
    message = f"the adapter's base is {base or 'not named'}, a directory of this machine"
    raise refuse("push-local-base", message, "export the run, which merges it, and push the export", path)


def licenses(run: str) -> dict[str, list[str]]:
    """Run of curation -> licences of its sources, of all that the run was made from."""
    found = {}
    for directory in [run, *ancestors(run)]:
        if (file := Path(directory) / LEDGER_FILE).is_file():
            sources = json.loads(file.read_text(encoding="utf-8"))["sources"]
            found[directory] = [source["license"] for source in sources if source.get("license")]
    return found


# What is pushed


def collect(what: Push, record: dict[str, Any], staged: Path) -> None:
    """Link or write every file that is pushed into the directory `staged`."""
    source = source_of(what)
    for file in found_in(source, ROWS if record.get("stage") == "curate" else FILES):
        (staged / file.name).symlink_to(file.resolve())
    for directory in [what.run, *ancestors(what.run)]:
        place = staged / RECORDS / Path(directory).name
        while place.exists():
            place = place.with_name(place.name + "_")
        place.mkdir(parents=True)
        kept = {key: value for key, value in read_record(directory).items() if key not in PRIVATE}
        (place / RUN_FILE).write_text(json.dumps(redact(kept), indent=1) + "\n", encoding="utf-8")
        if (ledger := Path(directory) / LEDGER_FILE).is_file():
            (place / LEDGER_FILE).symlink_to(ledger.resolve())
    (staged / RECORDS / "lineage.txt").write_text(lineage_text(what.run) + "\n", encoding="utf-8")
    (staged / "README.md").write_text(card(what.run, record, what), encoding="utf-8")


def found_in(directory: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (file for file in sorted(directory.glob(pattern)) if file.is_file())


def require_no_secret(staged: Path) -> None:
    """Raises Refusal secret with every file and line that has a credential, or a secret of the environment."""
    findings = []
    for file in sorted(staged.rglob("*")):
        if not file.is_file() or file.suffix in BINARY:
            continue
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if redact(line) != line:
                    where = f"{file.resolve() if file.is_symlink() else file.relative_to(staged)}:{number}"
                    fix = "remove it, and replace the credential: it may be known"
                    findings.append(Finding.error("secret", "this line has a credential", fix, where))
    if findings:
        raise Refusal(*findings[:10])


# The Hub


def upload(what: Push, record: dict[str, Any], staged: Path) -> str:
    """One commit. Returns the address."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api, kind = HfApi(), "dataset" if record.get("stage") == "curate" else "model"
    with hub_errors(what):
        api.create_repo(what.repo, repo_type=kind, private=not what.public, exist_ok=True)
        require_privacy(api, what, kind)
        if what.branch != "main":
            api.create_branch(what.repo, branch=what.branch, repo_type=kind, exist_ok=True)
        done = api.upload_folder(
            folder_path=staged,
            repo_id=what.repo,
            repo_type=kind,
            revision=what.branch,
            commit_message=what.message
            or f"{record.get('stage')} run, identity {record.get('identity', '')[:12]}",
        )
        if what.tag:
            api.create_tag(what.repo, tag=what.tag, revision=done.oid, repo_type=kind)
    return f"{done.commit_url}\n{'public' if what.public else 'private'}, branch {what.branch}"


def require_privacy(api: HfApi, what: Push, kind: str) -> None:
    """Raises Refusal repo-public if the repository exists, and is public without being asked for."""
    if not what.public and not api.repo_info(what.repo, repo_type=kind).private:
        fix = "pass --public, choose another repository, or make it private on the Hub"
        raise refuse("repo-public", "this repository is public", fix, what.repo)


@contextmanager
def hub_errors(what: Push) -> Iterator[None]:
    """The Hub's errors in one line, with the way out."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except (Refusal, Stopped):
        raise
    except LocalTokenNotFoundError as error:
        fix = "set HF_TOKEN, or log in with `hf auth login`"
        raise refuse("no-hub-token", "no token of the Hub on this machine", fix, what.repo) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        reason = {
            401: ("the Hub does not accept the token", "set HF_TOKEN, or log in with `hf auth login`"),
            403: ("the token may not write there", "use a token with write access, or another repository"),
            404: ("the repository does not exist", "correct --repo"),
            409: ("somebody else has changed the repository meanwhile", "run the same command again"),
            429: ("the Hub limits the rate of requests", "wait, and run the same command again"),
        }.get(status, (f"the Hub answered with status {status}", "run the same command again"))
        raise refuse("push-failed", *reason, what.repo, FAILED) from error
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        message = f"the push did not end: {' '.join(str(error).split())[:200] or type(error).__name__}"
        raise refuse("push-failed", message, "run the same command again", what.repo, FAILED) from error
