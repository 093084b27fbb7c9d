"""Level 1, files: those in a recipe must exist and have the columns of the stage. No torch, no datasets."""

import itertools
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...data.config import Source, stage_columns
from ...data.row_files import check_local
from ...data.selection import name_columns
from ...evals.check import check_config
from ...evals.config import EvaluateConfig
from ...finding import Finding, Refusal
from ...models.new_tokenizer import find_template
from ...recipe.read import RawRecipe
from ...record.file import read_record
from ...record.parents import ROLES, WEIGHTS, check_parent, find_parents, is_local

PEEK = 50  # rows read of a file; a column that none of them has is missing
# Roles that check_config checks, under its own code.
COMPANIONS = ("against", "reward_model")


def find_in_files(raw: RawRecipe) -> list[Finding]:
    """missing-file, missing-column, unknown-file-type, parent-*; what check_config finds."""
    return [*_sources(raw), *_templates(raw), *_evaluate(raw), *_parents(raw)]


def _sources(raw: RawRecipe) -> list[Finding]:
    data = raw.values.get("data") or {}
    findings = []
    for name in ("sources", "eval_sources"):
        for values in data.get(name) or []:
            findings += _found(lambda values=values: _check_source(raw, Source(**values)))
    if data.get("eval_sources") and data.get("eval_fraction"):
        message = "data.eval_sources and data.eval_fraction both define held-out rows"
        findings.append(
            Finding.error("two-eval-splits", message, "keep one of them", raw.place("data.eval_fraction"))
        )
    return [*findings, *_same_rows(raw, data)]


def _same_rows(raw: RawRecipe, data: dict) -> list[Finding]:
    def rows(source: dict) -> tuple:
        path = source.get("path")
        path = os.path.realpath(path) if path and os.path.exists(path) else path
        return path, source.get("name"), source.get("split", "train")

    trained = {rows(source) for source in data.get("sources") or []}
    return [
        Finding.error(
            "eval-is-train",
            "the same rows are in data.sources and data.eval_sources: the evaluation would measure memorisation",
            "hold out rows with data.eval_fraction, or use another split or file",
            source["path"],
        )
        for source in data.get("eval_sources") or []
        if rows(source) in trained
    ]


def _check_source(raw: RawRecipe, source: Source) -> None:
    if not check_local(source.path):
        return
    has = _columns(Path(source.path))
    required, optional = stage_columns(raw.stage, raw.values)
    if has is not None and required:
        # An optional column may occur later in the file.
        mapped = [source.columns[column] for column in optional if column in source.columns]
        name_columns(source, required, optional, list(dict.fromkeys([*has, *mapped])))


def _columns(path: Path) -> list[str] | None:
    """Columns of the first rows; None if reading them is expensive (level 2 reads every line)."""
    if path.suffix == ".txt":
        return ["text"]
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            return pq.read_schema(path).names
        except (OSError, ValueError):
            return None
    if path.suffix != ".jsonl":
        return None
    try:
        with path.open(encoding="utf-8-sig") as file:
            rows = [json.loads(line) for line in itertools.islice(file, PEEK) if line.strip()]
    except (OSError, ValueError, RecursionError):
        return None
    if not rows or not all(isinstance(row, dict) for row in rows):
        return None
    return list(dict.fromkeys(key for row in rows for key in row))


def _templates(raw: RawRecipe) -> list[Finding]:
    findings = []
    for section, key in (("train", "chat_template_path"), ("tokenizer", "chat_template")):
        path = raw.setting(f"{section}.{key}")
        local = path and (path.endswith(".jinja") or section == "tokenizer" or is_local(path))
        if local and not find_template(path).is_file():
            where = raw.place(f"{section}.{key}", section)
            message = f"{section}.{key}: the file {path} does not exist"
            fix = f"write `{key}:` with a Jinja file, such as those in the repository's chat_templates/"
            findings.append(Finding.error("missing-file", message, fix, where))
    return findings


def _evaluate(raw: RawRecipe) -> list[Finding]:
    values = raw.values.get("evaluate")
    if not values:
        return []
    produced = () if raw.stage == "evaluate" else (raw.output_dir,)
    findings = _found(lambda: check_config(EvaluateConfig(**values), produced=produced))
    return [_to_be_made(raw, f, f.where) if f.code == "missing-model" else f for f in findings]


def _parents(raw: RawRecipe) -> list[Finding]:
    findings = []
    allow_failed = bool({"--allow-failed-parent", "allow-failed-parent"} & raw.flags)
    for role, path in {**find_parents(raw.values), **_to_come(raw)}.items():
        if role not in COMPANIONS:
            found = _found(lambda: check_parent(role, path, _weights(path), allow_failed))  # noqa: B023
            findings += [_to_be_made(raw, finding, path) for finding in found]
    return findings


def _to_come(raw: RawRecipe) -> dict[str, str]:
    """Role -> path of parents that look like Hub ids (`runs/sft`), but are made by a recipe beside this."""
    named = {role: (raw.values.get(section) or {}).get(key) for role, (section, key) in ROLES.items()}
    return {role: path for role, path in named.items() if path and maker(raw, path)}


def _weights(path: str) -> str | None:
    """The hash of the weights in the record. The run computes it anew, which is too slow for level 1."""
    directory = Path(path)
    patterns = [*WEIGHTS, "tokenizer.json"]
    if not any(file for place in (directory, directory / "base") for p in patterns for file in place.glob(p)):
        return None
    try:
        return read_record(path).get("weights_sha256") or "not hashed"
    except Refusal:
        return "not hashed"


def _to_be_made(raw: RawRecipe, finding: Finding, path: str) -> Finding:
    """A warning instead, if the missing file or directory is the output of a recipe beside this one."""
    if finding.code in ("parent-gate-failed", "parent-changed"):
        return finding
    first = maker(raw, path)
    if first is None:
        return finding
    return replace(finding, severity="warning", fix=f"run this first: lifecycle run {first}")


def maker(raw: RawRecipe, path: str) -> str | None:
    """The recipe in the same directory whose output_dir is `path`."""
    wanted = os.path.normpath(path)
    for file in sorted(Path(raw.path).parent.glob("*.yaml")):
        if file == Path(raw.path):
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for found in re.findall(r"^\s+output_dir:\s*[\"']?([^\s\"'#]+)", text, re.M):
            if os.path.normpath(os.path.expanduser(found)) == wanted:
                return str(file)
    return None


def _found(check: Callable[[], None]) -> list[Finding]:
    """The findings of the Refusal that a check raises; none if it raises nothing."""
    try:
        check()
    except Refusal as refusal:
        return refusal.findings
    return []
