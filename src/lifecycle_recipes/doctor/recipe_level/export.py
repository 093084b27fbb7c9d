"""Level 1, export: forms that cannot be written, packages, limits. No torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...evals.check import check_prompts
from ...finding import Finding, Refusal
from ...models.adapters import is_adapter, model_below, require_adapter_base
from ...models.config_file import local_config
from ...publish.config import AGREEMENT, MERGED
from ...publish.gguf_writing import INSTALL, find_in_gguf
from ...publish.pruning import find_in_pruning
from ...publish.source import find_in_source, is_reward
from ...recipe.pruned_forms import TWO_OF_FOUR, pruned_forms
from ...recipe.read import RawRecipe
from ...record.trained_stage import stage_of
from ..trainer_level.step_zero import find_in_parent


def find_in_export(raw: RawRecipe) -> list[Finding]:
    """Of the sections: bad-value and no-effect of `agreement`, missing-package, missing-file and faults of the prompts.

    Of the model: not-exportable, tokenizer-differs, base-differs, reward-form, gguf-unsupported, not-prunable.
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
    for package, wanted, install in (
        ("gguf", gguf, INSTALL),
        ("bitsandbytes", [form for form in forms if form not in gguf], "pip install bitsandbytes"),
    ):
        if wanted and find_spec(package) is None:
            message = f"{wanted[0]} needs {package}, which is not installed"
            findings.append(Finding.error("missing-package", message, install, where))
    return [*findings, *_find_in_prompts(raw), *_find_in_model(raw, forms, gguf)]


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
