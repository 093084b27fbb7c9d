"""The `allow` and `pinned` sections of a recipe: what they name must exist, and waiving needs a reason."""

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
            findings.append(Finding.error("unknown-waiver", f"no check is called {code}", fix, where))
        elif code in NEVER_WAIVED:
            message = f"allow.{code} cannot be granted: with that fault no trainer can be built as asked for"
            findings.append(
                Finding.error("not-waivable", message, "mend the fault, remove the waiver", where)
            )
        elif not reason.strip():
            message, fix = f"allow.{code} gives no reason", "write why it is fine here: the record keeps it"
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
                f"no source or model of this recipe is called {identity}",
                "correct the id or remove it",
            )
            if (raw.values.get("evaluate") or {}).get("tasks"):
                fix += "; an lm-eval task's data is pinned in its YAML, dataset_kwargs: {revision: ...}"
            findings.append(Finding.warning("unused-pin", message, fix, where))
        for other in {str(r) for r in named.get(identity, []) if r != revision}:
            message = f"{identity} is pinned to {revision}, but its own section asks for {other}"
            findings.append(Finding.error("pin-conflict", message, "keep one of the two", where))
    return findings
