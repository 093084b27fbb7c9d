"""Level 1, files: those in a recipe must exist and have the columns of the stage. No torch, no datasets."""

import csv
import itertools
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from ...data.config import Source, as_source, stage_columns
from ...data.formats import format_columns
from ...data.row_files import READ_ERRORS, check_local, find_files, is_glob, open_bytes, plain_ending
from ...data.selection import name_columns
from ...evals.check import check_config
from ...evals.config import EvaluateConfig
from ...finding import Finding, Refusal
from ...models.adapters import is_adapter
from ...models.config_file import local_config
from ...models.new_tokenizer import find_template
from ...near_path import near_path
from ...recipe.paths import SIBLINGS, paths
from ...recipe.read import RawRecipe, recipes_in
from ...record.file import LEDGER_FILE, read_record
from ...record.parents import ROLES, WEIGHTS, check_parent, find_parents, is_local, named_parents

PEEK = 50  # rows read of a file; a column that none of them has is missing
FILES = 20  # files of a directory or glob that are looked at; level 2 reads all
# Roles that check_config checks, under its own code.
COMPANIONS = ("against", "reward_model")


def find_in_files(raw: RawRecipe) -> list[Finding]:
    """missing-file, missing-column, unknown-file-type, parent-*, *-head*; what check_config finds.

    What another recipe of the same command makes is not missing.
    """
    return [*_sources(raw), *_templates(raw), *_evaluate(raw), *_parents(raw), *_scorers(raw)]


def _sources(raw: RawRecipe) -> list[Finding]:
    data = raw.values.get("data") or {}
    findings = []
    if data.get("sources") == []:
        place = raw.place("data.sources")
        findings.append(Finding.error("no-rows", "data.sources is empty", "add at least one source", place))
    for name in ("sources", "eval_sources"):
        for i, values in enumerate(data.get(name) or []):
            found = _found(lambda values=values: _check_source(raw, as_source(values)))
            findings += [_at_source(raw, f"data.{name}[{i}]", values["path"], finding) for finding in found]
    if data.get("eval_sources") and data.get("eval_fraction"):
        message = "data.eval_sources and data.eval_fraction both define held-out rows"
        findings.append(
            Finding.error("two-eval-splits", message, "keep one of them", raw.place("data.eval_fraction"))
        )
    return [*findings, *_same_rows(raw, data)]


def _at_source(raw: RawRecipe, source: str, path: str, finding: Finding) -> Finding:
    """A finding about a source, at the line of the option it names, else of the path; with the file in its message."""
    option = finding.message.split()[0].strip(":")
    if finding.code in ("missing-column", "unread-column", "column-read-twice"):
        option = "columns"
    place = raw.place(f"{source}.{option}", f"{source}.path")
    if finding.code == "missing-file" and not is_glob(path):
        message = f"the file {_shown(raw, f'{source}.path', path)} does not exist"
        if first := maker(raw, os.path.dirname(path)):
            return Finding.warning("parent-missing", message, f"run this first: lifecycle run {first}", place)
        return replace(finding, message=message, fix=_correct_path(path), where=place)
    return replace(finding, message=f"{finding.where}: {finding.message}", where=place)


def _shown(raw: RawRecipe, name: str, path: str) -> str:
    """A path as the recipe has it, and what `~` in it stands for."""
    return f"{raw.written[name]} ({path})" if name in raw.written else path


def _correct_path(path: str) -> str:
    """The fix of a path that does not exist."""
    if near := near_path(path):
        return f"did you mean {near}?"
    relative = "" if os.path.isabs(path) else f"; it is relative to the current directory, {os.getcwd()}"
    return f"correct the path, or create it{relative}"


def _same_rows(raw: RawRecipe, data: dict) -> list[Finding]:
    def rows(source: dict) -> set[tuple]:
        files = _existing(source.get("path"))
        return {(path, source.get("name"), source.get("split", "train")) for path in files}

    trained = {part for source in data.get("sources") or [] for part in rows(source)}
    return [
        Finding.error(
            "eval-is-train",
            "the same rows are in data.sources and data.eval_sources: the evaluation would measure memorisation",
            "hold out rows with data.eval_fraction, or use another split or file",
            source["path"],
        )
        for source in data.get("eval_sources") or []
        if rows(source) & trained
    ]


def _existing(path: str | None) -> list[str | None]:
    """The files of a source, as paths without links; the path itself if there are none."""
    try:
        files = find_files(path) if path else []
    except Refusal:
        files = []
    return [os.path.realpath(file) for file in files if os.path.exists(file)] or [path]


def _check_source(raw: RawRecipe, source: Source) -> None:
    required, optional = stage_columns(raw.stage, raw.values)
    if not required:
        return
    format_columns(source, required, optional)
    if raw.is_awaited(source.path) or not check_local(source.path):
        return
    for path in find_files(source.path)[:FILES]:
        has, rows = first_columns(path)
        if has is not None:
            name_columns(source, required, optional, has, rows, partly=True, path=path)


def first_columns(path: str) -> tuple[list[str] | None, list[dict]]:
    """(columns of the first rows, these rows); None if reading them is expensive (level 2 reads every line)."""
    plain = plain_ending(path)
    if plain == ".txt":
        return ["text"], []
    if plain == ".parquet":
        import pyarrow.parquet as pq

        try:
            return pq.read_schema(path).names, []
        except (OSError, ValueError):
            return None, []
    try:
        with open_bytes(path) as file:
            head = list(itertools.islice(file, PEEK if plain == ".jsonl" else 1))
        if plain == ".csv":
            return next(csv.reader([head[0].decode("utf-8")])), []
        if plain == ".json":
            return None, []
        rows = [row for line in head if line.strip() and (row := _row(line)) is not None]
    except (*READ_ERRORS, RecursionError, IndexError, StopIteration):
        return None, []
    if not rows:
        return None, []
    return list(dict.fromkeys(key for row in rows for key in row)), rows


def _row(line: bytes) -> dict | None:
    """The row of a line of JSON; None for a line that level 2 reports."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _templates(raw: RawRecipe) -> list[Finding]:
    findings = []
    for section, key in (("train", "chat_template_path"), ("tokenizer", "chat_template")):
        path = raw.setting(f"{section}.{key}")
        local = path and (path.endswith(".jinja") or section == "tokenizer" or is_local(path))
        if local and not find_template(path).is_file() and not raw.is_awaited(path):
            where = raw.place(f"{section}.{key}", section)
            message = f"{section}.{key}: the file {path} does not exist"
            fix = f"write `{key}:` with a Jinja file (`lifecycle recipes copy chat_templates` gives some)"
            findings.append(Finding.error("missing-file", message, fix, where))
    return findings


def _evaluate(raw: RawRecipe) -> list[Finding]:
    values = raw.values.get("evaluate")
    if not values:
        return []
    produced = () if raw.stage == "evaluate" else (raw.output_dir,)
    findings = _found(lambda: check_config(EvaluateConfig(**values), produced=produced))
    findings = [f for f in findings if f.code != "missing-model" or not raw.is_awaited(f.where)]
    return [_in_evaluate(raw, values, finding) for finding in findings]


def _in_evaluate(raw: RawRecipe, values: dict, finding: Finding) -> Finding:
    """A finding about the evaluate section at its line, with the nearest path to one that does not exist."""
    if finding.code == "unknown-task":
        task = values["tasks"].index(finding.message.split()[-1])
        return replace(finding, where=raw.place(f"evaluate.tasks[{task}]", "evaluate.tasks"))
    named = re.search(r"evaluate\.(\w+)", finding.message)
    place = raw.place(f"evaluate.{named[1]}" if named else "evaluate", "evaluate")
    if not finding.where:
        return replace(finding, where=place)
    path = finding.where
    if not named or values.get(named[1]) != path or not finding.code.startswith(("missing-", "unknown-")):
        return finding
    message = f"{finding.message}: {_shown(raw, f'evaluate.{named[1]}', path)}"
    finding = replace(finding, message=message, where=place)
    if finding.code == "missing-model":
        return _to_be_made(raw, replace(finding, fix=_correct_run(raw, path) or finding.fix), path)
    return replace(finding, fix=_correct_path(path)) if finding.code.startswith("missing-") else finding


def _parents(raw: RawRecipe) -> list[Finding]:
    findings = []
    allow_failed = bool({"--allow-failed-parent", "allow-failed-parent"} & raw.flags)
    for role, path in {**find_parents(raw.values), **_to_come(raw)}.items():
        if role not in COMPANIONS and not raw.is_awaited(path):
            found = _found(lambda: check_parent(role, path, _weights(path), allow_failed))  # noqa: B023
            findings += [_at_its_line(raw, role, _to_be_made(raw, finding, path)) for finding in found]
    return findings


def lacking_parents(raw: RawRecipe) -> list[str]:
    """Parents that another recipe of the same command makes, and that are not finished yet."""
    awaited = {
        path
        for role, path in named_parents(raw.values).items()
        if role not in COMPANIONS and raw.is_awaited(path)
    }
    return sorted(p for p in awaited if _found(lambda: check_parent("", p, _weights(p), True)))  # noqa: B023


def lacking_data(raw: RawRecipe) -> list[str]:
    """Data files that another recipe, of the same command or beside this one, makes, and that do not exist yet."""
    named = [mapping[key] for name, mapping, key in paths(raw.values) if name.startswith("data.")]
    missing = {path for path in named if not os.path.exists(path)}
    return sorted(path for path in missing if raw.is_awaited(path) or maker(raw, os.path.dirname(path)))


def _at_its_line(raw: RawRecipe, role: str, finding: Finding) -> Finding:
    """parent-missing names the path in its message, and is found at the recipe's line, with the nearest run."""
    if finding.code != "parent-missing":
        return finding
    if role in ROLES:
        section, key = ROLES[role]
        path = raw.values[section][key]
    elif at := _of_sibling(raw, finding.where):
        section, key, path = "model", at, finding.where
    else:
        return finding
    message = f"the {role} parent {_shown(raw, f'{section}.{key}', path)} does not exist"
    fix = finding.fix if finding.severity == "warning" else _correct_run(raw, path)
    if not fix and raw.awaited:
        fix = "correct the path: no recipe of this command makes it"
    place = raw.place(f"{section}.{key}", section)
    return replace(finding, message=message, fix=fix or finding.fix, where=place)


def _of_sibling(raw: RawRecipe, path: str) -> str | None:
    """`average[0].path` or `adapters[1].path`: the key of the model section that names a sibling."""
    model = raw.values.get("model") or {}
    named = {s["path"]: f"{name}[{i}].path" for name in SIBLINGS for i, s in enumerate(model.get(name) or [])}
    return named.get(path)


def _correct_run(raw: RawRecipe, path: str) -> str:
    """The fix of a run directory that does not exist; empty if nothing is similar."""
    run, name = os.path.split(os.path.normpath(path))
    if re.fullmatch(r"checkpoint-\d+", name) and os.path.isdir(run):
        has = sorted(Path(run).glob("checkpoint-*"), key=lambda file: (len(file.name), file.name))
        return f"{run} has {', '.join(file.name for file in has) or 'no checkpoint: give the run itself'}"
    start = None if os.path.isabs(path) else os.getcwd()
    made = [os.path.relpath(file, start) if start else file for file in raw.awaited]
    near = get_close_matches(os.path.normpath(path), [*made, *_outputs_beside(raw)], 1, 0.8)
    near = near or [found for found in [near_path(path)] if found]
    return f"did you mean {near[0]}?" if near else ""


def _scorers(raw: RawRecipe) -> list[Finding]:
    """A model that scores replies must have one output, by the config.json of a local one."""
    findings = []
    named = named_parents(raw.values)
    for role in ("reward", "value", "reward_model"):
        section, key = ROLES[role]
        path = named.get(role)
        outputs = _outputs(path) if path else None
        if outputs in (None, 1):
            continue
        code = "no-reward-head" if role == "reward_model" else "reward-head-missing"
        has = (
            f"has {outputs} labels, and a score is one"
            if outputs
            else "is a language model without a reward head"
        )
        message = f"the {role.removesuffix('_model')} model {path} {has}"
        fix = "give the output_dir of a reward stage, or a classifier with num_labels: 1"
        findings.append(Finding.error(code, message, fix, raw.place(f"{section}.{key}", section)))
    return findings


def _outputs(path: str) -> int | None:
    """Labels of a local classifier, 0 for a causal language model; None if config.json does not tell."""
    if not is_local(path) or is_adapter(path):
        return None
    config = local_config(path)
    names = [str(name) for name in config.get("architectures") or []]
    if any(name.endswith("ForSequenceClassification") for name in names):
        return len(
            config.get("id2label") or "12"
        )  # a config with two labels, the default, does not list them
    return 0 if names and all(name.endswith("ForCausalLM") for name in names) else None


def _to_come(raw: RawRecipe) -> dict[str, str]:
    """Role -> path of parents that look like Hub ids (`runs/sft`), but are made by a recipe beside this."""
    return {role: path for role, path in named_parents(raw.values).items() if maker(raw, path)}


def _weights(path: str) -> str | None:
    """The hash of the weights in the record. The run computes it anew, which is too slow for level 1."""
    directory = Path(path)
    patterns = [*WEIGHTS, "tokenizer.json", LEDGER_FILE]
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
    """The recipe in the same directory whose output_dir is `path`; those of the same command are in `raw.awaited`."""
    return _outputs_beside(raw).get(os.path.normpath(path))


def _outputs_beside(raw: RawRecipe) -> dict[str, str]:
    """output_dir -> recipe, of the other recipes in the same directory that are not of the same command."""
    made: dict[str, str] = {}
    known = {Path(raw.path), *(Path(other.path) for other in raw.awaited.values())}
    for file in recipes_in(Path(raw.path).parent):
        if file in known:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for found in re.findall(r"^\s+output_dir:\s*[\"']?([^\s\"'#]+)", text, re.M):
            made.setdefault(os.path.normpath(os.path.expanduser(found)), str(file))
    return made


def _found(check: Callable[[], None]) -> list[Finding]:
    """The findings of the Refusal that a check raises; none if it raises nothing."""
    try:
        check()
    except Refusal as refusal:
        return refusal.findings
    return []
