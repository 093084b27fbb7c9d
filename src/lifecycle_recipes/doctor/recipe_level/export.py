"""Level 1, export: forms that cannot be written, packages, limits. No torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...data.config import Source
from ...data.row_files import each_row
from ...evals.check import check_prompts
from ...finding import Finding, Refusal
from ...models.adapters import is_adapter, model_below, require_adapter_base
from ...models.config_file import local_config
from ...publish.config import AGREEMENT, CALIBRATED, MERGED, PACKAGES
from ...publish.gguf_writing import find_in_gguf
from ...publish.pruning import find_in_pruning
from ...publish.source import find_in_source, is_reward
from ...recipe.pruned_forms import TWO_OF_FOUR, pruned_forms
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
            findings.append(
                Finding.error("bad-value", f"export.agreement.{form} must be from 0 to 1", "", place)
            )
    if forms and (clash := sorted({form for form in forms if forms.count(form) > 1})):
        findings.append(
            Finding.error("bad-value", f"export.forms names {clash[0]} twice", "remove one", where)
        )
    gguf = [form for form in forms if form.startswith("gguf-")]
    for form in dict.fromkeys(forms):
        for package, install in PACKAGES[form].items():
            if find_spec(package) is None:
                message = f"{form} needs {package}, which is not installed"
                findings.append(Finding.error("missing-package", message, install, where))
    findings += _find_in_calibration(raw, [form for form in forms if form in CALIBRATED])
    return [*findings, *_find_in_prompts(raw), *_find_in_model(raw, forms, gguf), *find_in_siblings(raw)]


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
    if not prompts:
        return []
    if not Path(prompts).is_file():
        message, fix = f"the file {prompts} of export.prompts does not exist", "give an existing file"
        return [Finding.error("missing-file", message, fix, raw.place("export.prompts"))]
    return check_prompts(Path(prompts), "export.prompts")


def _find_in_calibration(raw: RawRecipe, forms: list[str]) -> list[Finding]:
    """bad-value, no-effect, missing-file, bad-row and what reading finds. forms: those that are calibrated."""
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
    if raw.is_awaited(path) or maker(raw, str(Path(path).parent)):
        return []
    if not Path(path).is_file():
        message = f"the file {path} of export.calibration does not exist"
        return [Finding.error("missing-file", message, "give an existing file", place)]
    if (prompts := raw.values["export"].get("prompts")) and Path(prompts).resolve() == Path(path).resolve():
        message = (
            "export.calibration is export.prompts: the forms would be compared on what they are fitted to"
        )
        return [Finding.error("bad-value", message, "calibrate with rows of the training", place)]
    try:
        row = next(each_row(path, Source(path)), None)
    except Refusal as refusal:
        return refusal.findings
    if row is None:
        return [Finding.error("empty-file", "the file has no rows", "add rows", path)]
    if not {"messages", "prompt", "text"} & set(row):
        message = f"a row has none of messages, prompt and text; its keys are {', '.join(row)}"
        return [Finding.error("bad-row", message, "give rows such as those of training", f"{path}:1")]
    return []


def _find_in_model(raw: RawRecipe, forms: list[str], gguf: list[str]) -> list[Finding]:
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
    config, where = local_config(path), raw.place("export.forms", "export")
    if not config:
        return []
    if reasons := find_in_source(path):
        return [Finding.error("not-exportable", *reasons, place)]
    findings = find_in_parent("model", path)
    if is_reward(path):
        given = [name for name in ("prune", "evaluate") if raw.values.get(name)]
        section = "export.forms" if forms else given[0] if given else ""
        if section:
            message = "a reward model is exported merged only, and not evaluated: it cannot generate"
            findings.append(Finding.error("reward-form", message, f"remove {section}", raw.place(section)))
        return findings
    pruned = _pruned(raw)
    if pruned and (reasons := find_in_pruning(model_below(path), TWO_OF_FOUR in pruned)):
        findings.append(Finding.error("not-prunable", *reasons, raw.place("prune")))
    if gguf and (reasons := find_in_gguf(model_below(path))):
        fix = "leave the GGUF forms out, or convert it with llama.cpp"
        findings.append(Finding.error("gguf-unsupported", f"{gguf[0]}: {reasons[0]}", fix, where))
    return findings
