"""Level 1, export: forms that cannot be written, packages, limits. No torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...finding import Finding
from ...models.adapters import is_adapter, model_below
from ...models.config_file import local_config
from ...publish.config import AGREEMENT, MERGED
from ...publish.gguf_writing import INSTALL, find_in_gguf
from ...recipe.read import RawRecipe


def find_in_export(raw: RawRecipe) -> list[Finding]:
    """bad-value of `agreement`, missing-package, gguf-unsupported, reward-form, nothing-to-measure for no prompts."""
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
    return findings + _find_in_model(raw, forms, gguf)


def _find_in_model(raw: RawRecipe, forms: list[str], gguf: list[str]) -> list[Finding]:
    """What the model's own files rule out; nothing while they do not exist, or are on the Hub."""
    path = raw.values["model"]["model_name_or_path"]
    config, where = local_config(path), raw.place("export.forms", "export")
    names = config.get("architectures") or []
    if forms and any(name.endswith("ForSequenceClassification") for name in names):
        message = "a reward model is exported merged only: the forms are of language models"
        return [Finding.error("reward-form", message, "remove export.forms", where)]
    base = model_below(path) if is_adapter(path) else path
    if gguf and config and (Path(base) / "config.json").is_file() and (reasons := find_in_gguf(base)):
        fix = "leave the GGUF forms out, or convert it with llama.cpp"
        return [Finding.error("gguf-unsupported", f"{gguf[0]}: {reasons[0]}", fix, where)]
    return []
