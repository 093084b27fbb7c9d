"""Level 1, export: forms that cannot be written, packages, limits. No torch."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ...evals.check import check_prompts
from ...finding import Finding, Refusal
from ...models.adapters import is_adapter, model_below, require_adapter_base
from ...models.config_file import model_config
from ...publish.calibration_rows import find_too_few, read_calibration
from ...publish.config import AGREEMENT, CALIBRATED, MERGED, PACKAGES, ExportConfig
from ...publish.source import find_in_forms, find_in_source
from ...recipe.pruned_forms import pruned_forms
from ...recipe.read import RawRecipe
from ...record.trained_stage import stage_of
from ..trainer_level.step_zero import find_in_parent
from .files import maker
from .siblings import find_in_siblings


def find_in_export(raw: RawRecipe) -> list[Finding]:
    """Of the sections: bad-value and no-effect of `agreement`, missing-package, missing-file and faults of the prompts.

    Of the model: not-exportable, tokenizer-differs, base-differs, reward-form, gguf-unsupported, not-prunable,
    siblings-differ.
    """
    export = raw.values["export"]
    forms, where = export.get("forms") or [], raw.place("export.forms", "export")
    findings = _find_in_prune(raw)
    pruned = _pruned(raw)
    for form, least in (export.get("agreement") or {}).items():
        place = raw.place(f"export.agreement.{form}", "export.agreement")
        if form not in (*AGREEMENT, *pruned):
            message = f"export.agreement names {form}, which is no form"
            findings.append(
                Finding.error("bad-value", message, f"choose from {', '.join([*AGREEMENT, *pruned])}", place)
            )
        elif form not in (MERGED, *forms, *pruned):
            message = f"export.agreement.{form} has no effect: the form is not written"
            findings.append(
                Finding.error("no-effect", message, "add it to export.forms, or remove the key", place)
            )
        elif not 0 <= least <= 1:
            message = f"export.agreement.{form} is {least}, and a share is from 0 to 1"
            findings.append(Finding.error("bad-value", message, "write 0.95 for 95 %", place))
    if forms and (clash := sorted({form for form in forms if forms.count(form) > 1})):
        findings.append(
            Finding.error("bad-value", f"export.forms names {clash[0]} twice", "remove one", where)
        )
    for form in dict.fromkeys(forms):
        for package, install in PACKAGES[form].items():
            if find_spec(package) is None:
                message = f"{form} needs {package}, which is not installed"
                findings.append(Finding.error("missing-package", message, install, where))
    findings += _find_in_calibration(raw, [form for form in forms if form in CALIBRATED])
    return [*findings, *_find_in_prompts(raw), *_find_in_model(raw, forms), *find_in_siblings(raw)]


def _pruned(raw: RawRecipe) -> dict[str, float | None]:
    prune = raw.values.get("prune") or {}
    return pruned_forms(prune.get("levels") or [], prune.get("two_of_four") or False)


def _find_in_prune(raw: RawRecipe) -> list[Finding]:
    """A section that prunes nothing, a level that is given twice, a scope without levels."""
    prune, where = raw.values.get("prune"), raw.place("prune.levels", "prune")
    if prune is None:
        return []
    levels = prune.get("levels") or []
    if not _pruned(raw):
        message, fix = "prune writes no copy", "set prune.levels or prune.two_of_four, or remove the section"
        return [Finding.error("no-effect", message, fix, where)]
    if len(pruned_forms(levels, False)) < len(levels):
        return [Finding.error("bad-value", "prune.levels names a level twice", "remove one", where)]
    if prune.get("scope") and not levels:
        message = "prune.scope has no effect: 2 of 4 compares neighbours only"
        return [
            Finding.error("no-effect", message, "set prune.levels, or remove it", raw.place("prune.scope"))
        ]
    return []


def _find_in_prompts(raw: RawRecipe) -> list[Finding]:
    prompts = raw.values["export"].get("prompts")
    if not prompts or raw.is_awaited(prompts):
        return []
    return _find_missing(raw, "prompts", prompts) or check_prompts(Path(prompts), "export.prompts")


def _find_missing(raw: RawRecipe, key: str, path: str) -> list[Finding]:
    """missing-file; parent-missing, a warning, if a recipe beside this one makes the file."""
    if Path(path).is_file():
        return []
    message, place = f"the file {path} of export.{key} does not exist", raw.place(f"export.{key}", "export")
    if first := maker(raw, str(Path(path).parent)):
        return [Finding.warning("parent-missing", message, f"run this first: lifecycle run {first}", place)]
    return [Finding.error("missing-file", message, "give an existing file", place)]


def _find_in_calibration(raw: RawRecipe, forms: list[str]) -> list[Finding]:
    """bad-value, no-effect, missing-file and what `find_in_rows` finds. forms: those that are calibrated."""
    path, place = raw.values["export"].get("calibration"), raw.place("export.calibration", "export")
    if not path:
        if not forms:
            return []
        message = f"{forms[0]} is fitted to rows, and export.calibration names none"
        return [
            Finding.error("bad-value", message, "give a file of training rows", raw.place("export.forms"))
        ]
    if not forms:
        message = f"export.calibration has no effect: none of the forms is {' or '.join(CALIBRATED)}"
        return [Finding.error("no-effect", message, "remove it", place)]
    if raw.is_awaited(path):
        return []
    if missing := _find_missing(raw, "calibration", path):
        return missing
    if (prompts := raw.values["export"].get("prompts")) and Path(prompts).resolve() == Path(path).resolve():
        message = (
            "export.calibration is export.prompts: the forms would be compared on what they are fitted to"
        )
        return [Finding.error("bad-value", message, "calibrate with rows of the training", place)]
    wanted = raw.setting("export.calibration_rows") or ExportConfig("").calibration_rows
    rows, findings = read_calibration(path)
    return findings or [replace(f, where=place) for f in find_too_few(len(rows), wanted)]


def _find_in_model(raw: RawRecipe, forms: list[str]) -> list[Finding]:
    """What the model's own files rule out; nothing while they do not exist, or are on the Hub."""
    path, place = raw.values["model"]["model_name_or_path"], raw.place("model.model_name_or_path", "model")
    if Path(path).exists() and (stage := stage_of(path)) in ("curate", "evaluate", "tokenizer"):
        message = f"this is a run of {stage}, which has no model"
        return [Finding.error("not-exportable", message, "name a run that trained a model", place)]
    if is_adapter(path):
        try:
            require_adapter_base(path)
        except Refusal as refusal:
            return refusal.findings
    if not Path(model_below(path)).is_dir() or not model_config(path):
        return []
    if reasons := find_in_source(path):
        return [Finding.error("not-exportable", *reasons, place)]
    findings = find_in_parent("model", path)
    sections = [name for name in ("prune", "evaluate") if raw.values.get(name)]
    for section, *finding in find_in_forms(path, sections, forms, _pruned(raw)):
        findings.append(Finding.error(*finding, raw.place(section, "export")))
    return findings
