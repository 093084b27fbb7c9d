"""`lifecycle push RUN`: a finished run to the Hub, with its card and its whole chain of records. No torch.

What is pushed is listed (MODEL, ROWS), so that checkpoints, replies and left-out rows never are. It goes up as
one commit: a push that fails leaves the files of the branch as they were, and large files are not sent twice. So not
by `upload_folder`, which with hf_xet commits a large folder in parts, the first after five minutes at the latest
(huggingface_hub/_upload_pipeline.py): a push that is cut would leave half a model.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finding import FAILED, GATE_FAILED, Finding, Refusal, refuse
from ..models.adapters import adapter_config, is_adapter
from ..models.safetensors_files import find_pickles
from ..record.file import GATE_FILE, HELD_OUT, LEDGER_FILE, RUN_FILE, TRAIN, exported_forms
from ..record.full_disk import name_full_disk
from ..record.gate import judge
from ..record.model_files import BESIDE_WEIGHTS, find_changed, found_in
from ..record.parents import hash_weights, is_local
from ..record.weight_files import find_unreadable
from ..redact import redact
from .card import card
from .config import MERGED
from .hub_errors import hub_errors, one_line
from .licence import IDENTIFIER, derived_licence, origins
from .lineage import lineage, lineage_text, name_of, records
from .private_paths import rows_without_private_paths, without_private_paths
from .results import benchmark_entries, results_file, task_results

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Of a model's directory; of a run of curation.
MODEL = ("*.safetensors", "model.gguf", *BESIDE_WEIGHTS)
ROWS = (TRAIN, HELD_OUT, LEDGER_FILE)
RECORDS = "lifecycle"  # directory of the repository for the records
RESULTS = ".eval_results"  # where the Hub looks for the results of benchmarks
SHOWN = 3  # origins that are named in a message
BINARY = (".safetensors", ".gguf")
ON = ("1", "ON", "YES", "TRUE")  # huggingface_hub/constants.py


@dataclass
class Push:
    """What goes where. form: a directory of an export, such as int8. branch, tag: of the repository.

    license: null for the one that everything carries (publish/licence.py). power_watts: mean power of one device.
    """

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
    power_watts: float | None = None
    license_derived: bool = False
    failed_gates: list[str] = field(default_factory=list)


def push(what: Push) -> str:
    """Push a finished run; returns what to print: the files and the card with `dry_run`, else the address.

    Raises Refusal: bad-value, no-record, parent-unfinished, gate-failed (exit status 3), unknown-form, missing-model,
    parent-unreadable, saved-pickled, push-local-base, parent-changed, license-unknown, secret, push-offline,
    repo-public, tag-exists; with exit status 1: disk-full, push-failed.
    """
    require_names(what)
    chain = {place: redact(record) for place, record in records(what.run).items()}
    record = check(what, chain)
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        staged = Path(folder)
        with name_full_disk(staged.parent):
            collect(what, chain, staged)
        require_no_secret(staged)
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        if what.dry_run:
            sizes = [f"{file.stat().st_size:>15,}  {file.relative_to(staged)}" for file in files]
            head = f"{what.repo}, {'public' if what.public else 'private'}, branch {what.branch}"
            head += (f", tag {what.tag}" if what.tag else "") + f": {len(files)} files; nothing is sent"
            return "\n".join([head, *sizes, "", (staged / "README.md").read_text(encoding="utf-8")])
        return upload(what, record, staged)


def check(what: Push, chain: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record of the run, if it may be published. chain: of the run (publish/lineage.py)."""
    record = chain[what.run]
    if record["status"] != "done":
        message = f"this run is not finished: its status is {record['status']}"
        raise refuse("parent-unfinished", message, "correct the cause, and run the stage again", what.run)
    what.failed_gates = [verdict.line for verdict in judge(what.run) if not verdict.ok]
    if what.failed_gates and not what.allow_failed_gate:
        fix = "publish a run that passes, or pass --allow-failed-gate: the card then names the lines"
        raise refuse(
            "gate-failed", f"the gate failed: {'; '.join(what.failed_gates)}", fix, what.run, GATE_FAILED
        )
    source = source_of(what, record)
    if record.get("stage") != "curate":
        if not any(found_in(source, ("*.safetensors", "model.gguf", "tokenizer.json"))):
            raise refuse(
                "missing-model", "this directory has no model", "push a run that saved one", str(source)
            )
        if unreadable := find_unreadable(source):
            raise refuse("parent-unreadable", unreadable[1], "run the stage again", unreadable[0])
        if findings := find_pickles(str(source)):
            raise Refusal(*findings)
        require_public_base(str(source))
    require_unchanged(what, record, source)
    if not what.license:
        derive_licence(what, chain)
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    if offline.upper() in ON and not what.dry_run:
        raise refuse("push-offline", f"HF_HUB_OFFLINE is {offline}", "run with HF_HUB_OFFLINE=0", what.repo)
    return record


def require_names(what: Push) -> None:
    """Raises Refusal bad-value for a repository or a licence that the Hub would not accept."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(what.repo)
        problem = "" if what.repo.count("/") == 1 else "it must be OWNER/NAME"
    except HFValidationError as error:
        problem = " ".join(str(error).split())
    if problem:
        raise refuse("bad-value", f"--repo {what.repo!r}: {problem}", "give it as OWNER/NAME", "command line")
    if what.license and not IDENTIFIER.fullmatch(what.license):
        message = f"--license {what.license!r} is no identifier of a licence"
        raise refuse(
            "bad-value", message, "give one of the Hub's, such as apache-2.0 or other", "command line"
        )
    if what.power_watts is not None and not 0 < what.power_watts < float("inf"):
        message = f"--power-watts {what.power_watts:g}: a power is greater than 0"
        raise refuse("bad-value", message, "give the mean power of one device in watts", "command line")


def require_unchanged(what: Push, record: dict[str, Any], source: Path) -> None:
    """Raises Refusal parent-changed if the weights, or the files beside them, are not those that the run saved."""
    then = record.get("weights_sha256")
    if what.form:
        then = (record["export"].get("weights_sha256") or {}).get(what.form)
    if then and hash_weights(source) != then:
        message = "the files do not match the record of the run: they changed after it"
        raise refuse("parent-changed", message, "run the stage again", str(source))
    if changed := find_changed(source, record, what.form):
        message = "this file does not match the record of the run: it was changed, added or removed after it"
        fix = "restore the file, or run the stage again: the results in the record are not of this"
        raise refuse("parent-changed", message, fix, str(source / changed[0]))


def source_of(what: Push, record: dict[str, Any]) -> Path:
    """The directory that is pushed. Raises Refusal unknown-form for what is no form of this export."""
    if not what.form:
        return Path(what.run)
    forms = [form for form in exported_forms(record) if form != MERGED]
    if what.form not in forms:
        fix = f"its forms are {', '.join(forms)}" if forms else "leave --form out: only an export has forms"
        raise refuse("unknown-form", f"this run has no form {what.form}", fix, what.run)
    return Path(what.run) / what.form


def require_public_base(path: str) -> None:
    """Raises Refusal push-local-base for an adapter whose base is a local directory: nobody else could load it."""
    if not is_adapter(path):
        return
    base = adapter_config(path).get("base_model_name_or_path")
    if base and not is_local(base):
        return
    message = f"the adapter's base is {base or 'not named'}, a directory of this machine"
    raise refuse("push-local-base", message, "export the run, which merges it, and push the export", path)


def derive_licence(what: Push, chain: dict[str, dict[str, Any]]) -> None:
    """Raises Refusal license-unknown, with what is known, unless everything carries one licence."""
    what.license = derived_licence(chain)
    what.license_derived = what.license is not None
    if what.license:
        return
    known = [f"{name}: {licence or 'none is known'}" for name, licence in origins(chain).items()]
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    message = "the licence is not known" + (f" ({'; '.join(known[:SHOWN])}{more})" if known else "")
    raise refuse("license-unknown", message, "pass --license, such as `--license apache-2.0`", what.run)


# What is pushed


def collect(what: Push, chain: dict[str, dict[str, Any]], staged: Path) -> None:
    """Link or write every file that is pushed into the directory `staged`."""
    record = chain[what.run]
    source = source_of(what, record)
    for file in found_in(source, ROWS if record.get("stage") == "curate" else MODEL):
        place = staged / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        if file.name == LEDGER_FILE:
            write_json(place, json.loads(file.read_text(encoding="utf-8")))
        elif file.suffix == ".jsonl" and (rows := rows_without_private_paths(file)):
            with place.open("w", encoding="utf-8", newline="\n") as out:
                out.writelines(rows)
        else:
            place.symlink_to(file.resolve())
    for directory, own in chain.items():
        place = staged / RECORDS / name_of(directory)
        while place.exists():
            place = place.with_name(place.name + "_")
        place.mkdir(parents=True)
        kept = {key: value for key, value in own.items() if key != "process"}
        kept["hardware"] = {
            key: value for key, value in (kept.get("hardware") or {}).items() if key != "host"
        }
        write_json(place / RUN_FILE, kept)
        for name in (GATE_FILE, *([LEDGER_FILE] if directory != what.run else [])):
            if (file := Path(directory) / name).is_file():
                write_json(place / name, json.loads(file.read_text(encoding="utf-8")))
    tree = lineage(what.run)
    write(staged / RECORDS / "lineage.txt", lineage_text(tree) + "\n")
    results = task_results(record, what.form)
    entries = benchmark_entries(results, record)
    if entries:
        (staged / RESULTS).mkdir()
        write(staged / RESULTS / f"{RECORDS}.yaml", results_file(list(entries.values())))
    write(staged / "README.md", card(what, chain, tree, results, list(entries)))


def write(file: Path, text: str) -> None:
    file.write_text(without_private_paths(text), encoding="utf-8")


def write_json(file: Path, value: dict[str, Any]) -> None:
    """The values are changed, not the text: in it, a letter of a path may be escaped."""
    text = json.dumps(without_private_paths(value), indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def require_no_secret(staged: Path) -> None:
    """Raises Refusal secret with every file and line that has a credential, or a secret of the environment.

    Of weights, what precedes the tensors: notes in safetensors, the chat template in GGUF.
    """
    findings = []
    for file in sorted(staged.rglob("*")):
        if not file.is_file():
            continue
        named = file.resolve() if file.is_symlink() else file.relative_to(staged)
        fix = "remove it, and replace the credential: it may be known"
        if file.suffix in BINARY:
            if redact(header := read_header(file)) != header:
                findings.append(Finding.error("secret", "the header has a credential", fix, str(named)))
            continue
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if redact(line) != line:
                    message = "this line has a credential"
                    findings.append(Finding.error("secret", message, fix, f"{named}:{number}"))
    if findings:
        raise Refusal(*findings[:10])


def read_header(file: Path) -> str:
    """What precedes the tensors of a .safetensors or .gguf file, each byte as one character."""
    if file.suffix == ".gguf":
        import gguf

        end = gguf.GGUFReader(file).data_offset
        with file.open("rb") as stream:
            return stream.read(end).decode("latin-1")
    with file.open("rb") as stream:
        return stream.read(int.from_bytes(stream.read(8), "little")).decode("latin-1")


# The Hub


def upload(what: Push, record: dict[str, Any], staged: Path) -> str:
    """One commit. Returns the address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api, kind = HfApi(), "dataset" if record.get("stage") == "curate" else "model"
    names = [str(file.relative_to(staged)) for file in sorted(staged.rglob("*")) if file.is_file()]
    with hub_errors(what.repo):
        require_card(what, staged, kind)
        api.create_repo(what.repo, repo_type=kind, private=not what.public, exist_ok=True)
        is_private = require_privacy(api, what, kind)
        if what.tag:
            require_free_tag(api, what, kind)
        if what.branch != "main":
            api.create_branch(what.repo, branch=what.branch, repo_type=kind, exist_ok=True)
        there = api.list_repo_files(what.repo, repo_type=kind, revision=what.branch)
        removed = outdated(there, names, ROWS if kind == "dataset" else MODEL)
        done = api.create_commit(
            what.repo,
            [CommitOperationAdd(name, staged / name) for name in names]
            + [CommitOperationDelete(name) for name in removed],
            repo_type=kind,
            revision=what.branch,
            commit_message=what.message
            or f"{record.get('stage')} run, identity {record.get('identity', '')[:12]}",
        )
        if what.tag:
            api.create_tag(what.repo, tag=what.tag, revision=done.oid, repo_type=kind)
    seen = "private" if is_private else "public"
    if is_private and what.public:
        seen += ", as it was before --public: change it on the Hub"
    files = [name for name in removed if not is_record(name)]
    gone = f"; removed, of an earlier push: {', '.join(files)}" if files else ""
    return f"{done.commit_url}\n{seen}; branch {what.branch}{gone}"


def require_card(what: Push, staged: Path, kind: str) -> None:
    """Raises Refusal push-failed, before a repository is made, for a card that the Hub would not accept.

    Its list of licences, for one, is only on the Hub.
    """
    from huggingface_hub import RepoCard
    from huggingface_hub.errors import HfHubHTTPError

    try:
        RepoCard.load(staged / "README.md", repo_type=kind).validate(repo_type=kind)
    except ValueError as error:  # the client has made it from the Hub's answer
        answer = error.__context__
        said = answer.server_message if isinstance(answer, HfHubHTTPError) else str(error)
        message = f"the Hub does not accept the card: {one_line(said or '')}"
        fix = "correct what it names, such as --license"
        raise refuse("push-failed", message, fix, what.repo, FAILED) from error


def outdated(there: list[str], names: list[str], pushed: tuple[str, ...]) -> list[str]:
    """The files of an earlier push that the new card does not describe; they are removed in its commit.

    pushed: what a push of this kind may send. from_pretrained would prefer an old model.safetensors to new shards, and
    an old adapter_config.json to both; whoever takes an old model.gguf would take it for the form of the new card.
    """
    return [
        name
        for name in there
        if name not in names and (is_record(name) or any(_fits(name, pattern) for pattern in pushed))
    ]


def is_record(name: str) -> bool:
    return name.startswith((f"{RECORDS}/", f"{RESULTS}/{RECORDS}"))


def _fits(name: str, pattern: str) -> bool:
    """`*` is no slash, as in Path.glob."""
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def require_free_tag(api: HfApi, what: Push, kind: str) -> None:
    """Raises Refusal tag-exists before anything is sent: the Hub would refuse the tag after the commit."""
    if what.tag in {ref.name for ref in api.list_repo_refs(what.repo, repo_type=kind).tags}:
        fix = "choose another --tag, or delete that one on the Hub"
        raise refuse("tag-exists", f"the repository has a tag {what.tag} already", fix, what.repo)


def require_privacy(api: HfApi, what: Push, kind: str) -> bool:
    """Whether the repository is private. Raises Refusal repo-public if it is public without being asked for."""
    is_private = bool(api.repo_info(what.repo, repo_type=kind).private)
    if not what.public and not is_private:
        fix = "pass --public, choose another repository, or make it private on the Hub"
        raise refuse("repo-public", "this repository is public", fix, what.repo)
    return is_private
