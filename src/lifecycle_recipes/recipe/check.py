"""Check a located recipe against the JSON schema of its stage, with all mistakes in one pass. No torch.

The schemas use a small part of JSON Schema (type, enum, properties, required, additionalProperties, items,
anyOf, and the limits of ranges.py), so that this file can be strict where JSON Schema is not (7.0 is not an
integer) and a message can name the right value.
"""

import math
from collections.abc import Callable
from typing import Any

from ..finding import Finding
from ..redact import holds_secret, is_secret
from .located_yaml import Located
from .names import OTHER_TOOLS, REMOVED, RENAMED, has_no_effect
from .ranges import outside

# Python type -> JSON Schema types that it satisfies. An int is a number; a bool is not an int.
_SATISFIES = {
    type(None): ("null",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
}
_NAMES = {
    "null": "null",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "array": "a list",
    "object": "a mapping",
}


def types_of(schema: dict) -> list[str]:
    """The JSON Schema types that a value may have; empty if every type is allowed."""
    if "anyOf" in schema:
        return [t for option in schema["anyOf"] for t in types_of(option)]
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else types


class Checker:
    """One check of one recipe. `findings` lists the mistakes in the order in which they were found.

    schemas: returns the schema of any stage, so that a key of another stage can be recognised.
    """

    def __init__(self, stage: str, schemas: Callable[[str], dict], stages: list[str]):
        self.stage, self.schemas, self.stages = stage, schemas, stages
        self.schema = schemas(stage)
        self.findings: list[Finding] = []

    def say(self, code: str, where: str, message: str) -> None:
        if where.startswith("--") and code == "unknown-key":
            code = "unknown-override"
        self.findings.append(Finding.error(code, message, "", where))

    def check(self, tree: Located) -> dict[str, Any]:
        """The plain values of the whole recipe; those that are wrong are left out and reported."""
        return self.value(self.schema, tree, ())

    def value(self, schema: dict, node: Located, path: tuple) -> Any:
        kind = _SATISFIES[type(node.value)]
        options = [
            o for o in schema.get("anyOf", [schema]) if not types_of(o) or set(kind) & set(types_of(o))
        ]
        if not options:
            return self.say(
                "wrong-type", node.where, f"{dotted(path)} must be {_wrong_type(schema, node.value)}"
            )
        option = options[0]
        if isinstance(node.value, dict):
            return self.mapping(option, node, path)
        if isinstance(node.value, list):
            items = option.get("items", {})
            return [self.value(items, item, (*path, i)) for i, item in enumerate(node.value)]
        return self.scalar(option, node, path)

    def scalar(self, schema: dict, node: Located, path: tuple) -> Any:
        value = node.value
        if holds_secret(value):
            return self.say(
                "secret", node.where, f"{dotted(path)} contains a credential: {_secret_cure(path[-1])}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            return self.say("bad-value", node.where, f"{dotted(path)} must be a finite number, not {value}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and (allowed := outside(schema, value)):
            message = f"{dotted(path)} = {show(value)} is outside its range: {allowed}"
            return self.say("out-of-range", node.where, message)
        choices = schema.get("enum")
        if choices is not None and not any(value == c and type(value) is type(c) for c in choices):
            self.say(
                "wrong-choice",
                node.where,
                f"{dotted(path)} cannot be {show(value)}: {_choose(value, choices)}",
            )
        return value

    def mapping(self, schema: dict, node: Located, path: tuple) -> dict:
        known = schema.get("properties", {})
        values = {}
        for key, item in node.value.items():
            here = (*path, key)
            if is_secret(key):
                self.say(
                    "secret", item.where, f"{dotted(here)} does not belong in a recipe: {_secret_cure(key)}"
                )
            elif key in known:
                values[key] = self.value(known[key], item, here)
            elif schema.get("additionalProperties") is not False:
                values[key] = self.value(schema.get("additionalProperties") or {}, item, here)
            else:
                self.say(*self.unknown(key, path, known, item.where))
        for key in schema.get("required", []):
            if key not in node.value:
                self.missing(key, path, node.where)
        return values

    def missing(self, key: str, path: tuple, where: str) -> None:
        if path:
            self.say("missing-key", where, f"{dotted((*path, key))} is missing")
        else:
            needs = self.schema["properties"][key].get("required", [])
            with_keys = f" with {', '.join(needs)}" if needs else ""
            self.say("missing-section", where, f"a {self.stage} recipe needs the section `{key}`{with_keys}")

    def may_be_null(self, path: tuple) -> bool:
        """Whether `--a.b null` sets a value; else it removes the key. True for a key that does not exist."""
        schema = self.schema
        for part in path:
            options = schema.get("anyOf", [schema])
            below = [o["items"] if "items" in o else o.get("properties", {}).get(part) for o in options]
            schema = next((s for s in below if s is not None), None)
            if schema is None:
                return True
        return not types_of(schema) or "null" in types_of(schema)

    # Messages for unknown keys

    def unknown(self, key: Any, path: tuple, known: dict, where: str) -> tuple[str, str, str]:
        """(code, where, message) for a key that is unknown here."""
        name = dotted((*path, key))
        section = path[0] if path else None
        sections = {s: p.get("properties", {}) for s, p in self.schema["properties"].items()}
        if not isinstance(key, str):
            return "unknown-key", where, f"{name} does not exist: a key must be a string"
        if key in REMOVED and len(path) < 2:
            return "renamed-key", where, f"{name} was removed: {REMOVED[key]}"
        new = RENAMED.get(key)
        if new:
            at = [section] if new in known else [s for s, keys in sections.items() if new in keys]
            if at:
                return "renamed-key", where, f"{name} was renamed to {' or '.join(f'{s}.{new}' for s in at)}"
        for s in [section] if section else sections:
            reason = has_no_effect(self.stage, s, key)
            if reason and len(path) < 2:
                return "no-effect", where, f"{name} has no effect here: {reason}"
        if key in OTHER_TOOLS:
            return "renamed-key", where, f"{name} is not a key here: {OTHER_TOOLS[key]}"
        if path and key in self.schema["properties"]:
            return "misplaced-key", where, f"{name} belongs at the top level of the recipe"
        owners = [s for s, keys in sections.items() if key in keys and s != section]
        if owners:
            return (
                "misplaced-key",
                where,
                f"{name} belongs in section {' or '.join(owners)}, not {section or 'here'}",
            )
        foreign = self.other_stages(key, section)
        if foreign:
            article = "an" if self.stage[0] in "aeiou" else "a"
            return (
                "misplaced-key",
                where,
                f"{name} does not exist in {article} {self.stage} recipe: {foreign}",
            )
        return "unknown-key", where, f"{name} does not exist: {self.nearest(key, known, sections)}"

    def other_stages(self, key: str, section: str | None) -> str:
        """`it belongs to ...` when other stages have that key (as a section, or in a section), else empty."""
        owners: dict[str, list[str]] = {}
        for stage in self.stages:
            properties = self.schemas(stage)["properties"]
            if section is None and key in properties:
                owners.setdefault("section", []).append(stage)
            for s, p in properties.items():
                if key in p.get("properties", {}):
                    owners.setdefault(s, []).append(stage)
        place = section if section in owners else next(iter(owners), None)
        if place is None:
            return ""
        what = "it is a section of" if place == "section" else f"it belongs in section {place} of"
        return f"{what} {', '.join(owners[place])}"

    def nearest(self, key: str, known: dict, sections: dict[str, dict]) -> str:
        near = _closest(key, known, 0.7)
        if near:
            return f"did you mean {near}?"
        elsewhere = [(s, n) for s, keys in sections.items() if (n := _closest(key, keys, 0.8))]
        if elsewhere:
            return f"did you mean {' or '.join(f'{s}.{n}' for s, n in elsewhere)}?"
        if len(known) <= 16:
            return f"the keys of this section are {', '.join(known)}"
        return "no key of this section has a similar name"


def dotted(path: tuple) -> str:
    """`data.sources[0].path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) and text else f".{part}" if text else str(part)
    return text or "a recipe"


def show(value: Any) -> str:
    """A value in a form that may be printed: short, and never a credential."""
    if holds_secret(value):
        return "<hidden>"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _secret_cure(key: Any) -> str:
    if "wandb" in str(key):
        return "use the WANDB_API_KEY environment variable"
    return "use the HF_TOKEN environment variable"


def _closest(word: str, names, cutoff: float = 0.6) -> str | None:
    from difflib import get_close_matches  # only when something is wrong: it costs a few milliseconds

    found = get_close_matches(word.lower().replace("-", "_"), [str(n) for n in names], 1, cutoff)
    return found[0] if found else None


def _choose(value: Any, choices: list) -> str:
    near = _closest(value, [c for c in choices if c]) if isinstance(value, str) else None
    if near:
        return f"did you mean {near}?"
    shown = ", ".join("null" if c is None else str(c) for c in choices if c != "")
    return f"choose from {shown}"


def _wrong_type(schema: dict, value: Any) -> str:
    types = list(dict.fromkeys(types_of(schema)))
    if "number" in types:
        types = [t for t in types if t != "integer"]
    names = [_NAMES[t] for t in types if t != "null"] or ["null"]
    kind = {bool: "the boolean ", int: "the integer ", float: "the number ", str: "the string "}.get(
        type(value), ""
    )
    hint = _hint(types, schema, value)
    return f"{' or '.join(names)}, not {kind}{show(value)}" + (f": {hint}" if hint else "")


def _hint(types: list[str], schema: dict, value: Any) -> str:
    """What the writer most likely meant, as YAML to write; empty when there is no good guess."""
    if (
        isinstance(value, str)
        and "boolean" in types
        and value.lower() in {"yes", "on", "true", "no", "off", "false"}
    ):
        return f"write {'true' if value.lower() in {'yes', 'on', 'true'} else 'false'}"
    if isinstance(value, str) and {"integer", "number"} & set(types):
        bare = value.replace("_", "").replace(",", "")
        if bare.lstrip("+-")[:1].isdigit() and _is_number(bare, "number" in types):
            return f"write {bare}" + ("" if bare != value else " without quotes")
    if isinstance(value, float) and "integer" in types and value.is_integer() and abs(value) < 1e15:
        return f"write {int(value)}"
    if "string" in types and value is False and "no" in schema.get("enum", []):
        return "write no"
    if "string" in types and isinstance(value, bool | int | float):
        return f'write "{show(value)}" in quotes'
    if "array" in types and isinstance(value, str | int | float):
        item = value if not holds_secret(value) and len(str(value)) <= 60 else "..."
        return f"write [{{path: {item}}}]" if "path" in _item_keys(schema) else f"write [{item}]"
    if "object" in types and isinstance(value, str) and "path" in schema.get("properties", {}):
        return f"write {{path: {value if not holds_secret(value) and len(value) <= 60 else '...'}}}"
    if value is None:
        return "give it a value or leave the key out"
    return ""


def _item_keys(schema: dict) -> dict:
    """The properties of the mappings in a list; empty for any other schema."""
    options = schema.get("anyOf", [schema])
    return next((o["items"].get("properties", {}) for o in options if "items" in o), {})


def _is_number(text: str, fraction: bool) -> bool:
    try:
        float(text) if fraction else int(text)
    except ValueError:
        return False
    return True
