"""The `allow` and `pinned` sections of a recipe: codes and ids must exist, and a waiver needs a reason."""

from difflib import get_close_matches

from ...finding import Finding
from ...recipe.pins import pinnable
from ...recipe.read import RawRecipe
from ..codes import CODES, NEVER_WAIVED


def find_in_waivers(raw: RawRecipe) -> list[Finding]:
    """unknown-waiver, not-waivable, waiver-without-reason; unused-pin, pin-conflict."""
    findings = []
    for code, reason in raw.allow.items():
        where = raw.places.get(f"allow.{code}", "")
        if code not in CODES:
            near = get_close_matches(code, CODES, 1)
            fix = f"did you mean {near[0]}?" if near else "docs/checks.md lists the codes"
            findings.append(Finding.error("unknown-waiver", f"unknown code {code}", fix, where))
        elif code in NEVER_WAIVED:
            message = f"{code} cannot be waived: no run can continue with it"
            findings.append(Finding.warning("not-waivable", message, "remove the waiver from `allow`", where))
        elif not reason.strip():
            message, fix = (
                f"allow.{code} has no reason",
                "write why the finding is acceptable here: the record keeps the reason",
            )
            findings.append(Finding.error("waiver-without-reason", message, fix, where))
    return findings + _find_in_pins(raw)


def _find_in_pins(raw: RawRecipe) -> list[Finding]:
    named: dict[str, list] = {}
    for _, section, identity, revision in pinnable(raw.values):
        named.setdefault(section[identity], []).append(section.get(revision))
    findings = []
    for identity, revision in raw.values.get("pinned", {}).items():
        where = raw.places.get(f"pinned.{identity}", "")
        if identity not in named:
            message, fix = (
                f"`pinned` names {identity}, which is not a source or model of this recipe",
                "correct the id or remove it",
            )
            if (raw.values.get("evaluate") or {}).get("tasks"):
                fix += "; an lm-eval task's data is pinned in its YAML, dataset_kwargs: {revision: ...}"
            findings.append(Finding.warning("unused-pin", message, fix, where))
        for other in {str(r) for r in named.get(identity, []) if r != revision}:
            message = f"{identity} is pinned to {revision}, but its own section sets {other}"
            findings.append(Finding.error("pin-conflict", message, "keep one of the two", where))
    return findings
