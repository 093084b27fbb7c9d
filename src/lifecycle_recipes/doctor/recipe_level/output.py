"""Level 1, the output directory: the run it belongs to, its checkpoints, and free disk space."""

import math
import os
import shutil
from pathlib import Path

from ...finding import Finding, Refusal
from ...models.config_file import local_config, stored_dtype
from ...recipe.read import OWN_SECTION, RawRecipe
from ...record.checkpoints import find_incomplete_checkpoints
from ...record.file import RUN_FILE, read_record
from ...record.identity import find_differences, identify
from ...record.output_dir import find_busy, find_other_host, way_out, whose
from ...record.parents import describe_parent, find_parents, hash_inputs
from .hub import cache

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def find_in_output(raw: RawRecipe) -> list[Finding]:
    """output-dir-is-parent, other output-dir-* that a run refuses, checkpoint-incomplete, disk-too-small."""
    directory = Path(raw.output_dir)
    findings = _is_parent(raw, directory) or _taken(raw, directory)  # --replace would rename the parent
    if "train" in raw.values:
        findings += _disk(raw, directory)
    return findings


def _is_parent(raw: RawRecipe, directory: Path) -> list[Finding]:
    here = os.path.realpath(directory)
    for role, path in find_parents(raw.values).items():
        there = os.path.realpath(path)
        # A run is compared with itself once it is saved: `evaluate.against` may name it.
        if role not in ("against", "reward_model") and os.path.commonpath([here, there]) == here:
            message = f"the run would overwrite its own {role} parent, {path}"
            where = raw.place("train.output_dir", *(f"{stage}.output_dir" for stage in OWN_SECTION))
            return [Finding.error("output-dir-is-parent", message, "choose another output_dir", where)]
    return []


def _taken(raw: RawRecipe, directory: Path) -> list[Finding]:
    """Findings about an output_dir that is not empty, by the rule that the run itself applies."""
    if {"--replace", "replace"} & raw.flags:
        return []
    if unreadable := _unreadable(directory):
        return unreadable
    earlier, same = earlier_run(raw)
    if same and earlier["status"] != "done":
        return find_other_host(earlier, directory) + find_incomplete_checkpoints(directory)
    differences = _recorded_differences(earlier, raw) if earlier else []
    if earlier and not differences:
        return []
    if problem := whose(directory, earlier, differences):
        code, message = problem
        return [Finding.warning(code, message, way_out(differences), str(directory))]
    return []


def _unreadable(directory: Path) -> list[Finding]:
    """bad-record, which the run refuses as well (record/output_dir.py)."""
    try:
        if (directory / RUN_FILE).exists():
            read_record(directory)
    except Refusal as refusal:
        problem = refusal.findings[0]
        return [Finding.warning(problem.code, problem.message, way_out([]), problem.where)]
    return []


def _recorded_differences(earlier: dict, raw: RawRecipe) -> list[str]:
    """What differs from the run of a record, if parents and files are unchanged: to hash them takes too long here."""
    return find_differences(earlier, raw, earlier.get("parents") or {}, earlier.get("inputs") or {})


def is_finished(raw: RawRecipe) -> bool:
    """Whether output_dir contains the finished run of this recipe, if parents and files are unchanged."""
    earlier, same = earlier_run(raw)
    return same and earlier["status"] == "done" and not _recorded_differences(earlier, raw)


def find_finished(raw: RawRecipe) -> list[Finding]:
    """output-dir-busy, and output-dir-finished for this same recipe: a check passes them, a run does not."""
    directory = Path(raw.output_dir)
    earlier, same = earlier_run(raw)
    if busy := find_busy(earlier, directory):
        return busy
    known = {"--replace", "replace"} & raw.flags or _taken(raw, directory)
    if known or not same or earlier["status"] != "done":
        return []
    parents = {role: describe_parent(path, directory) for role, path in find_parents(raw.values).items()}
    differences = find_differences(earlier, raw, parents, hash_inputs(raw.values))
    code, message = whose(directory, earlier, differences)
    keep = "" if differences else "--unless-done to keep it, or "
    return [Finding.error(code, message, f"pass {keep}--replace to rename it and run again", str(directory))]


def is_free(raw: RawRecipe) -> bool:
    """True if writing a record to output_dir would not replace the record of another run."""
    directory = Path(raw.output_dir)
    earlier, same = earlier_run(raw)
    return whose(directory, earlier, []) is None or (same and earlier["status"] != "done")


def earlier_run(raw: RawRecipe) -> tuple[dict | None, bool]:
    """(the record in output_dir or None, whether it makes the same model, if parents and files are unchanged)."""
    directory = Path(raw.output_dir)
    try:
        earlier = read_record(directory) if (directory / RUN_FILE).exists() else None
    except Refusal:
        return None, False
    if earlier is None:
        return None, False
    try:
        return earlier, identify(raw, earlier["parents"], earlier["inputs"]) == earlier["identity"]
    except (KeyError, TypeError):
        return earlier, False


def _disk(raw: RawRecipe, directory: Path) -> list[Finding]:
    needed, words = needed_bytes(raw)
    there = next(p for p in [directory.absolute(), *directory.absolute().parents] if p.exists())
    free = shutil.disk_usage(there).free
    if needed <= free:
        return []
    message = f"{words} need about {_size(needed)}, but only {_size(free)} are free at {there}"
    fix = "set or lower train.save_total_limit, free disk space, or choose another disk"
    return [
        Finding.warning(
            "disk-too-small", message, fix, raw.place("train.save_total_limit", "train.output_dir")
        )
    ]


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def needed_bytes(raw: RawRecipe) -> tuple[float, str]:
    """(bytes of the weights and checkpoints, their description); 0 if the parent's size is unknown.

    A checkpoint contains the weights and the optimizer state. Adapters are small and not counted.
    """
    weights = _loaded_bytes(raw)
    if not weights or raw.setting("model.use_peft"):
        return 0.0, ""
    kept = _checkpoints(raw)
    states = _optimizer_states(raw.setting("train.optim") or "")
    if raw.setting("train.save_only_model"):
        states = 0
    return weights * (1 + kept * (1 + states)), f"the model and {kept} checkpoint{'s' * (kept != 1)}"


def _optimizer_states(optimizer: str) -> float:
    """Values kept per weight: Adam's two moments; fewer bytes in 8 bits; almost none for the others."""
    if "8bit" in optimizer:
        return 0.5
    if optimizer.startswith(("adafactor", "sgd", "lomo", "adalomo", "galore", "apollo")):
        return 0.0
    return 1.0 if "lion" in optimizer else 2.0


def _checkpoints(raw: RawRecipe) -> int:
    """Number of checkpoints on the disk at once: the limit, and one more until the oldest is deleted."""
    strategy = raw.setting("train.save_strategy")
    if strategy == "no" or raw.stage == "ppo":
        return 0
    limit = raw.setting("train.save_total_limit")
    steps, every = raw.setting("train.max_steps") or -1, raw.setting("train.save_steps") or 1
    if strategy == "epoch":
        saves = math.ceil(min(raw.setting("train.num_train_epochs") or 1, 1e9))
    elif steps > 0:
        saves = max(steps // every, 1) if every >= 1 else 1 / max(every, 1e-9)
    else:
        saves = 1  # the number of steps is unknown; at least the last checkpoint is written
    return int(min(saves, limit + 1) if limit else saves)


def _loaded_bytes(raw: RawRecipe) -> float:
    """Size of the parent's weights in the dtype in which they are loaded; 0 if they are not on this disk."""
    path = (raw.values.get("model") or {}).get("model_name_or_path")
    if not path:
        return 0.0
    directory = Path(path)
    if not directory.is_dir():
        snapshots = sorted((cache() / f"models--{path.replace('/', '--')}").glob("snapshots/*"))
        if not snapshots:
            return 0.0
        directory = snapshots[-1]
    stored = sum(file.stat().st_size for file in directory.glob("model*.safetensors"))
    config = local_config(directory)
    if not config:
        return float(stored)
    kept = stored_dtype(config)
    wanted = raw.setting("model.dtype")
    return stored * BYTES.get(wanted, BYTES.get(kept, 4)) / BYTES.get(kept, 4)
