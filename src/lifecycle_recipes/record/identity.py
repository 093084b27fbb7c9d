"""What identifies a run, and what differs between two runs of one output directory. No torch."""

import hashlib
import json

from ..redact import redact, secret_values
from .parents import input_files

SHOWN = 3
EVALUATION_ROLES = ("against", "reward_model")


def identify(raw, parents: dict, inputs: dict) -> str:
    """A hash that identifies what a run makes: its stage, recipe values, the parents' weights, the files it reads.

    Gate, comments and layout are left out: another gate needs no other training. Neither does another
    evaluation, except in the evaluate stage (see `identify_evaluation`). Of the waivers only the codes count,
    since rows with a waived fault are left out.
    """
    values = settings(raw)
    if raw.stage != "evaluate":
        values.pop("evaluate", None)
        parents = {role: parent for role, parent in parents.items() if role not in EVALUATION_ROLES}
    return _hash(values, parents, inputs)


def identify_evaluation(raw, parents: dict, inputs: dict) -> str:
    """A hash that identifies how a run is measured: its `evaluate` section, with its models and files."""
    parents = {role: parent for role, parent in parents.items() if role in EVALUATION_ROLES}
    return _hash({"evaluate": raw.values.get("evaluate")}, parents, inputs)


def is_same(earlier: dict, raw, parents: dict, inputs: dict) -> bool:
    """Whether the record `earlier` is of this recipe's run, with the same evaluation."""
    made, measured = identify(raw, parents, inputs), identify_evaluation(raw, parents, inputs)
    return (earlier.get("identity"), earlier.get("evaluation_identity")) == (made, measured)


def settings(raw) -> dict:
    """The values of a recipe that count: stage, sections without the gate, codes of waivers."""
    values = {section: value for section, value in raw.values.items() if section != "gate"}
    values["stage"] = raw.stage
    if raw.allow:
        values["allow"] = sorted(raw.allow)
    return values


def find_differences(earlier: dict, raw, parents: dict, inputs: dict) -> list[str]:
    """What differs from the run of the record `earlier`: keys, parents, files; empty for the same run."""
    if is_same(earlier, raw, parents, inputs):
        return []
    here = redact(settings(raw), secret_values(raw.values))
    there = earlier.get("settings") or here
    found = [f"{key}: {one} there, {other} here" for key, one, other in _changed(_flat(there), _flat(here))]
    for role, parent in parents.items():
        other = (earlier.get("parents") or {}).get(role) or {}
        if other.get("path") == parent["path"] and other.get("weights_sha256") != parent["weights_sha256"]:
            found.append(f"the weights of the {role} parent {parent['path']} have changed")
    for path, digest in inputs.items():
        if (earlier.get("inputs") or {}).get(path, digest) != digest:
            found.append(f"{path} has changed")
    if not found and "evaluation_identity" not in earlier:
        return ["its record was written by an earlier version of lifecycle-recipes"]
    return found or ["another recipe, parent or data"]


def _changed(there: dict[str, str], here: dict[str, str]) -> list[tuple[str, str, str]]:
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return [(key, _short(there.get(key)), _short(here.get(key))) for key in keys]


def in_short(differences: list[str]) -> str:
    """The first differences, in one line."""
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return "; ".join(differences[:SHOWN]) + more


def _hash(values: dict, parents: dict, inputs: dict) -> str:
    named = set(input_files(values))
    weights = {role: parent["weights_sha256"] for role, parent in parents.items()}
    files = {path: digest for path, digest in inputs.items() if path in named}
    text = json.dumps([values, weights, files], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _flat(value, name: str = "") -> dict[str, str]:
    """Dotted key -> value as text, of all values that are neither mappings nor lists."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {name: str(value)}
    return {
        k: v for key, part in items for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()
    }


def _short(text: str | None) -> str:
    if text is None:
        return "not set"
    return text if len(text) <= 60 else f"{text[:57]}..."
