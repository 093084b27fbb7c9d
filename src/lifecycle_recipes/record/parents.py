"""The parents of a run: found in its recipe, hashed, and checked before the run starts. No torch."""

import glob
import hashlib
import os
import re
import time
from difflib import get_close_matches
from pathlib import Path

from ..finding import Refusal, refuse
from . import gate
from .file import HELD_OUT, LEDGER_FILE, RUN_FILE, TRAIN, read_record
from .weight_files import find_unreadable

# Role of a parent -> the key of its path in a recipe.
ROLES = {
    "model": ("model", "model_name_or_path"),
    "reward": ("reward", "model_name_or_path"),
    "value": ("value", "model_name_or_path"),
    "tokenizer": ("architecture", "tokenizer"),
    "extended": ("tokenizer", "extend"),
    "resized": ("tokenizer", "resize_model"),
    "token counter": ("curate", "tokenizer"),
    "against": ("evaluate", "against"),
    "reward_model": ("evaluate", "reward_model"),
}
# What a run of curation leaves in place of weights, and the keys of its steps that name a model.
CURATED = (LEDGER_FILE, TRAIN, HELD_OUT)
MODEL_OF_STEP = {"perplexity": "model", "safety": "classifier"}
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "*.gguf")
BLOCK, BLOCKS = 1 << 20, 256
# A file younger than this may change again within one tick of the clock, without a new modification time.
SETTLED_NS = 2 * 10**9
_hashes: dict[tuple, str] = {}


def named_parents(values: dict) -> dict[str, str]:
    """Role -> path or Hub id of everything that a recipe starts from or compares with."""
    named = {role: (values.get(section) or {}).get(key) for role, (section, key) in ROLES.items()}
    for step in (values.get("curate") or {}).get("steps") or []:
        named |= {
            name: (step.get(name) or {}).get(key) for name, key in MODEL_OF_STEP.items() if name in step
        }
    named |= _siblings(values.get("model") or {}) | _data_parents(values)
    return {role: path for role, path in named.items() if path}


def _siblings(model: dict) -> dict[str, str]:
    """`sibling`, `sibling 2`, ... -> the path of every model that an export averages or combines with its own."""
    given = [*(model.get("average") or []), *(model.get("adapters") or [])]
    return {
        f"sibling {number}" if number > 1 else "sibling": sibling["path"]
        for number, sibling in enumerate(given, start=1)
    }


def _data_parents(values: dict) -> dict[str, str]:
    """`data`, `data 2`, ... -> the directory of every run whose files are read as rows."""
    data = values.get("data") or {}
    sources = [*(data.get("sources") or []), *(data.get("eval_sources") or [])]
    paths = [path for source in sources if (path := source.get("path"))]
    files = [
        file for path in paths for file in ([path] if os.path.isdir(path) else rows_below(path) or [path])
    ]
    named = [file if os.path.isdir(file) else os.path.dirname(file) or "." for file in files]
    runs = [run for run in dict.fromkeys(named) if os.path.exists(os.path.join(run, RUN_FILE))]
    return {f"data {number}" if number > 1 else "data": run for number, run in enumerate(runs, start=1)}


def find_parents(values: dict) -> dict[str, str]:
    """Role -> path of every local directory that a recipe starts from or compares with; no Hub ids."""
    return {role: path for role, path in named_parents(values).items() if is_local(path)}


def is_local(path: str) -> bool:
    """True for a path, false for a Hub id: `name`, or `owner/name` if no directory `owner` exists here."""
    if os.path.exists(path) or path.startswith((".", "/", "~")) or path.count("/") > 1:
        return True
    owner, slash, _ = path.partition("/")
    return bool(slash) and os.path.isdir(owner)


def describe_parent(path: str, output_dir: str | Path) -> dict:
    """path, relative (to output_dir), identity (of its run) and weights_sha256; a missing value is None."""
    identity = None
    if os.path.exists(os.path.join(path, RUN_FILE)):
        try:
            identity = read_record(path).get("identity")
        except Refusal:  # check_parent refuses it later, when this run has a record for the finding
            identity = None
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(output_dir))
    return {"path": path, "relative": relative, "identity": identity, "weights_sha256": hash_weights(path)}


def run_of(path: str) -> str | None:
    """The run that a directory belongs to: itself, or for `run/checkpoint-N` the run; None without a record."""
    above, name = os.path.split(os.path.realpath(path))
    if os.path.exists(os.path.join(path, RUN_FILE)):
        return path
    is_checkpoint = re.fullmatch(r"checkpoint-\d+", name) and os.path.exists(os.path.join(above, RUN_FILE))
    return os.path.relpath(above) if is_checkpoint else None


def check_parent(role: str, path: str, weights_sha256: str | None, allow_failed: bool) -> None:
    """Refuses a parent that is missing, unfinished, unreadable, changed since, or with a failed gate.

    A checkpoint of a run is bound by the contract of that run.
    """
    if not os.path.isdir(path):
        near = closest_run(path)
        fix = f"did you mean {near}?" if near else "run the stage that produces it"
        raise refuse("parent-missing", f"the {role} parent {path} does not exist", fix, path)
    run = run_of(path)
    record = read_record(run) if run else None
    who = f"the {role} parent" if run in (path, None) else f"{run}, the run of the {role} parent,"
    if record and record["status"] != "done":
        message = f"{who} is not finished: its status is {record['status']}"
        raise refuse("parent-unfinished", message, f"finish {run} first, and start from it", path)
    if weights_sha256 is None and not role.startswith("data"):
        wanted = (
            "tokenizer.json"
            if role in ("tokenizer", "extended", "token counter")
            else "weights (*.safetensors)"
        )
        raise refuse(
            "parent-no-weights",
            f"the {role} parent has no {wanted}",
            "give the directory of a saved model",
            path,
        )
    if unreadable := find_unreadable(path):
        fix = "download or copy it again" if record is None else "copy it again, or run that stage again"
        raise refuse("parent-unreadable", unreadable[1], fix, unreadable[0])
    if record is None:
        return
    if run == path and record.get("weights_sha256") not in (None, weights_sha256):
        what = "files" if role.startswith("data") else "weights"
        message = f"the {role} parent's {what} do not match its record (they changed after its run)"
        raise refuse("parent-changed", message, "run that stage again", path)
    failed = [v for v in gate.judge(run) if not v.ok]
    if failed and not allow_failed:
        lines = "; ".join(f"`{v.line}`: {v.message}" for v in failed)
        recipe = (record.get("recipe") or {}).get("path") or "its recipe"
        # Judging again reads two files, training again may take days.
        fix = f"if a line asks too much, correct it in {recipe} and run `lifecycle gate {recipe}`; else train that"
        fix += " stage again, or pass --allow-failed-parent"
        raise refuse("parent-gate-failed", f"{who} failed its gate: {lines}", fix, path)


def closest_run(path: str) -> str | None:
    """The directory with a record beside `path` whose name is closest to its own; None if none is close."""
    folder, name = os.path.split(os.path.normpath(path))
    names = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
    runs = [other for other in names if os.path.exists(os.path.join(folder, other, RUN_FILE))]
    # By name alone: all paths of one directory are close to each other.
    near = get_close_matches(name, runs, 1)
    return os.path.join(folder, near[0]) if near else None


def hash_weights(directory: str | Path) -> str | None:
    """One hash of the weights in a directory, with an adapter's base/; else of its tokenizer, else of curated rows.

    None if it has none of these. Training changes every weight, so of a file above 256 MiB only 256 evenly
    spaced blocks of 1 MiB are hashed: a 140 GB parent takes a quarter of a second per shard, not minutes. Of rows,
    one may have changed: their files are hashed whole.
    """
    directory = Path(directory)
    files = [f for place in (directory, directory / "base") for p in WEIGHTS for f in sorted(place.glob(p))]
    if not files and (directory / "tokenizer.json").is_file():
        files = [directory / "tokenizer.json"]
    digest = hashlib.sha256()
    if not files and (directory / LEDGER_FILE).is_file():
        found = [name for name in CURATED if (directory / name).is_file()]
        digest.update("".join(f"{name}\0{hash_file(directory / name)}\0" for name in found).encode())
        return digest.hexdigest()
    for file in files:
        digest.update(f"{file.relative_to(directory)}\0{file.stat().st_size}\0".encode())
        add_to_hash(digest, file)
    return digest.hexdigest() if files else None


def add_to_hash(digest, file: Path) -> None:
    """Add the content of a file, or of a large one 256 evenly spaced blocks of 1 MiB, to a hashlib digest."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= BLOCK * BLOCKS:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
            return
        for i in range(BLOCKS):
            stream.seek(i * (size - BLOCK) // (BLOCKS - 1))
            digest.update(stream.read(BLOCK))


def hash_file(file: str | Path) -> str:
    """The sha256 of a file, computed once per process unless the file changes.

    A change is detected by the change time of its inode, among others: no program can reset that one.
    """
    with open(file, "rb") as stream:
        before = os.fstat(stream.fileno())
        if known := _hashes.get(_state(before)):
            return known
        settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED_NS
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if settled and _state(os.fstat(stream.fileno())) == _state(before):
            _hashes[_state(before)] = digest
    return digest


def _state(stat: os.stat_result) -> tuple:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def rows_below(path) -> list[str]:
    """The files that a directory or a glob stands for."""
    if not isinstance(path, str) or "\0" in path:
        return []
    if os.path.isdir(path):
        return sorted(os.path.join(path, name) for name in os.listdir(path) if not name.startswith("."))
    return sorted(glob.glob(path, recursive=True)) if any(c in path for c in "*?[") else []


def hash_inputs(values) -> dict[str, str]:
    """Path -> sha256 of every file named in a recipe: data, prompts, templates, rubrics."""
    return {path: hash_file(path) for path in input_files(values)}


def input_files(values) -> list[str]:
    """Every file named in (a part of) a recipe, once.

    The files of a directory or glob of rows, which is the `path` of a source or in a list of `against`, are among
    them.
    """
    if isinstance(values, dict):
        against = values.get("against")
        rows = [values.get("path"), *(against if isinstance(against, list) else ())]
        values = [*values.values(), *(file for path in rows for file in rows_below(path))]
    if isinstance(values, list):
        return list(dict.fromkeys(path for value in values for path in input_files(value)))
    # A long text is not a path (and the kernel rejects its lookup).
    is_file = (
        isinstance(values, str) and 0 < len(values) < 1000 and "\0" not in values and os.path.isfile(values)
    )
    return [values] if is_file else []
