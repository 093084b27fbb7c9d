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
from ...publish.source import find_in_source, is_reward
from ...recipe.read import RawRecipe
from ...record.trained_stage import stage_of
from ..trainer_level.step_zero import find_in_parent
from .siblings import find_in_siblings


def find_in_export(raw: RawRecipe) -> list[Finding]:
    """Of the section: bad-value and no-effect of `agreement`, missing-package, missing-file and faults of the prompts.

    Of the model: not-exportable, tokenizer-differs, base-differs, reward-form, gguf-unsupported, siblings-differ.
    """
    export = raw.values["export"]
    forms, where = export.get("forms") or [], raw.place("export.forms", "export")
    findings = []
    for form, least in (export.get("agreement") or {}).items():
        place = raw.place(f"export.agreement.{form}", "export.agreement")
        if form not in AGREEMENT:
            message = f"export.agreement names {form}, which is no form"
            findings.append(Finding.error("bad-value", message, f"choose from {', '.join(AGREEMENT)}", place))
        elif form not in (MERGED, *forms):
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
    return [*findings, *_find_in_prompts(raw), *_find_in_model(raw, forms, gguf), *find_in_siblings(raw)]


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
        section = "export.forms" if forms else "evaluate" if raw.values.get("evaluate") else ""
        if section:
            message = "a reward model is exported merged only, and not evaluated: it cannot generate"
            findings.append(Finding.error("reward-form", message, f"remove {section}", raw.place(section)))
        return findings
    if gguf and (reasons := find_in_gguf(model_below(path))):
        fix = "leave the GGUF forms out, or convert it with llama.cpp"
        findings.append(Finding.error("gguf-unsupported", f"{gguf[0]}: {reasons[0]}", fix, where))
    return findings
