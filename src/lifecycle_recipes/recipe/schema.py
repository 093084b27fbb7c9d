"""JSON schemas of the recipes, generated from the dataclasses of the stages.

    python -m lifecycle_recipes.recipe.schema            rewrites src/lifecycle_recipes/recipe/schemas/*.json

Importing TRL takes 10 s, but checking a recipe should take 1 s: so recipes are checked against these files.
They contain the versions from which they were made; if other versions are installed, new ones are made in a
cache. Importing this module imports no torch; making schemas does.
"""

import enum
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import types
import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path

from ..finding import refuse
from ..quick_imports import quick_imports
from ..redact import is_secret
from .check import types_of
from .names import ALSO, CHOICES, HELP, RENAMED, has_no_effect, required_keys
from .ranges import RANGES

SHIPPED = Path(__file__).parent / "schemas"
SHARED = ("global_batch_size", "early_stopping", "gate", "allow", "pinned")
STAMPED = ("lifecycle-recipes", "transformers", "trl")
_PACKAGE = "lifecycle_recipes"
_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


# Reading


@functools.cache
def stage_names() -> list[str]:
    """Every stage that a recipe can name."""
    return sorted(p.stem for p in SHIPPED.glob("*.json"))


@functools.cache
def section_names() -> frozenset[str]:
    """Every section and every other key at the top of a recipe, of any stage."""
    schemas = [json.loads(p.read_text(encoding="utf-8")) for p in SHIPPED.glob("*.json")]
    return frozenset(name for schema in schemas for name in schema["properties"])


@functools.cache
def load_schema(stage: str) -> dict:
    """The JSON schema of a stage's recipe, for the installed versions. Raises Refusal `no-schema`."""
    path = schema_directory() / f"{stage}.json"
    if not path.is_file():
        message = f"the {stage} stage does not work with the installed {' and '.join(_installed_text())}"
        raise refuse("no-schema", message, "install the versions in constraints.txt")
    return json.loads(path.read_text(encoding="utf-8"))


@functools.cache
def schema_directory() -> Path:
    """The shipped schemas if they match the installed versions, else a cache, filled on first use (15 s)."""
    versions = installed_versions()
    first = next(iter(sorted(SHIPPED.glob("*.json"))))
    if json.loads(first.read_text(encoding="utf-8"))["x-versions"] == versions:
        return SHIPPED
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lifecycle_recipes"
    made = cache / ("schemas-" + "-".join(versions.values()))
    return made if made.is_dir() else _make_once(made)


def _make_once(directory: Path) -> Path:
    """Fill `directory` atomically, in another process: the caller must not import torch."""
    print(f"making recipe schemas for {', '.join(_installed_text())} (once)", file=sys.stderr)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=directory.parent))
    except OSError:  # the home directory is not writable: make them for this process only
        fresh = directory = Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "lifecycle_recipes.recipe.schema", "--to", str(fresh)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise refuse("no-schema", f"recipe schemas could not be made: {done.stderr.strip()[-300:]}")
    if fresh != directory:
        try:
            fresh.rename(directory)
        except OSError:  # another process has made them
            return directory if directory.is_dir() else fresh
    return directory


def installed_versions() -> dict[str, str]:
    """The versions that schemas made here would contain."""
    return {name: version(name) for name in STAMPED}


def _installed_text() -> list[str]:
    return [f"{name} {v}" for name, v in installed_versions().items() if name != "lifecycle-recipes"]


# Types of a recipe class


def section_types(recipe_class: type) -> dict[str, typing.Any]:
    """The type of every section of a stage's recipe dataclass; types given as dotted strings are imported."""
    named = section_fields(recipe_class)
    with quick_imports():
        return {f.name: _resolve(f.type, _namespace(recipe_class, f.name)) for f in named}


def _namespace(recipe_class: type, name: str) -> dict:
    """The names of the module whose class declares the field `name`."""
    declaring = next(c for c in recipe_class.__mro__ if name in vars(c).get("__annotations__", {}))
    return vars(sys.modules[declaring.__module__])


def section_fields(recipe_class: type) -> list[Field]:
    """The keys that a recipe of this class may contain: its own sections first, then those of all recipes."""
    return sorted(
        (f for f in fields(recipe_class) if f.init),
        key=lambda f: SHARED.index(f.name) if f.name in SHARED else -1,
    )


def _resolve(annotation: typing.Any, namespace: dict) -> typing.Any:
    """The type of a string such as `"trl.ModelConfig | None"`; the modules named in it are imported first."""
    if not isinstance(annotation, str):
        return annotation
    scope = dict(namespace)
    for dotted in re.findall(r"[A-Za-z_]\w*(?:\.\w+)+", annotation):
        parts = dotted.split(".")
        if parts[0] not in namespace:
            scope[parts[0]] = importlib.import_module(parts[0])
            for end in range(2, len(parts)):
                importlib.import_module(".".join(parts[:end]))
    return _resolve(eval(annotation, scope), namespace)  # our own source, not input


# Making


def recipe_class(stage: str) -> type:
    """The recipe dataclass of a stage: the one in its module whose name ends in `Recipe`."""
    module = importlib.import_module(f"lifecycle_recipes.stages.{stage}")
    found = [c for name, c in vars(module).items() if name.endswith("Recipe") and is_dataclass(c)]
    (only,) = [c for c in found if c.__module__ == module.__name__]
    return only


def make_schema(stage: str) -> dict:
    """The JSON schema (draft 2020-12) of that stage's recipe."""
    cls = recipe_class(stage)
    properties = {"stage": HELP["stage"] | {"type": "string", "enum": [stage]}}
    required = ["stage"]
    for field, hint in zip(section_fields(cls), section_types(cls).values(), strict=True):
        properties[field.name] = HELP.get(field.name, {}) | _field_schema(field, hint, cls, stage)
        if _is_required(field):
            required.append(field.name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{stage} recipe",
        "x-versions": installed_versions(),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _dataclass_schema(cls: type, stage: str = "", section: str = "") -> dict:
    hints = typing.get_type_hints(cls)
    kept = [
        f
        for f in fields(cls)
        if f.init
        and f.name not in RENAMED
        and not is_secret(f.name)
        and not has_no_effect(stage, section, f.name)
    ]
    required = [f.name for f in kept if _is_required(f)]
    required += [key for key in required_keys(stage, section) if key not in required]
    doc = (cls.__doc__ or "").strip()
    # Ours explain their keys below the first paragraph; those of upstream go on for pages.
    doc = (
        "\n".join(map(str.strip, doc.splitlines()))
        if cls.__module__.startswith(_PACKAGE)
        else doc.split("\n\n")[0]
    )
    schema = {"type": "object", "description": doc} if doc else {"type": "object"}
    schema["properties"] = {f.name: _field_schema(f, hints[f.name], cls) for f in kept}
    for key in required_keys(stage, section):  # null would be upstream's default, too
        schema["properties"][key] = {"type": "string"} | _without_default(schema["properties"][key])
    return schema | {"required": required, "additionalProperties": False}


def _without_default(schema: dict) -> dict:
    return {keyword: value for keyword, value in schema.items() if keyword not in ("type", "default")}


def _field_schema(field: Field, hint: typing.Any, cls: type, stage: str = "") -> dict:
    also = _entry(ALSO, cls, field.name)
    choices = field.metadata.get("choices") or _entry(CHOICES, cls, field.name)
    try:
        schema = _type_schema(hint | also if also else hint, list(choices or []), stage, field.name)
    except TypeError as e:
        raise TypeError(f"{cls.__name__}.{field.name}: {e}") from None
    if {"integer", "number"} & set(types_of(schema)):
        schema |= RANGES.get(field.name, {})
    elif {"integer", "number"} & set(types_of(schema.get("items") or {})):
        schema["items"] |= RANGES.get(field.name, {})
    if field.metadata.get("help"):
        schema["description"] = " ".join(field.metadata["help"].replace("%%", "%").split())
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(default, enum.Enum):
        default = default.value
    if default is not MISSING and isinstance(default, str | bool | int | float | list | dict | None):
        schema["default"] = default
    return schema


def _entry(table: dict, cls: type, name: str) -> typing.Any:
    """The entry of a table of names.py for a field, declared in `cls` or one of its parents."""
    keys = [(parent.__name__, name) for parent in cls.__mro__] + [("*", name)]
    return next((table[key] for key in keys if key in table), None)


def _type_schema(hint: typing.Any, choices: list, stage: str = "", section: str = "") -> dict:
    """JSON schema of a type hint; `choices` restricts its strings. TypeError for a type that YAML lacks."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return {}
    if hint is str and choices:
        return {"type": "string", "enum": choices}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin is typing.Literal:
        return _literal_schema(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union_schema(arguments, choices, stage, section)
    if hint is list or origin in (list, tuple):
        items = _type_schema(arguments[0], choices) if arguments else {}
        return {"type": "array", "items": items}
    if hint is dict or origin is dict:
        values = _type_schema(arguments[1], []) if arguments else {}
        return {"type": "object"} | ({"additionalProperties": values} if values else {})
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"type": "string", "enum": [member.value for member in hint]}
    if is_dataclass(hint):
        return _dataclass_schema(hint, stage, section)
    raise TypeError(f"no JSON schema for {hint}")


def _literal_schema(values: tuple) -> dict:
    kinds = list(dict.fromkeys(_SCALARS[type(v)] for v in values))
    return {"type": kinds if len(kinds) > 1 else kinds[0], "enum": list(values)}


def _union_schema(arguments: tuple, choices: list, stage: str, section: str) -> dict:
    """Plain types become one `type`; null is merged into a single other member; the rest is an `anyOf`."""
    if any(isinstance(a, type) and issubclass(a, enum.Enum) for a in arguments):
        arguments = tuple(
            a for a in arguments if a is not str
        )  # `SchedulerType | str`: the string is an enum value
    members = [_type_schema(a, choices, stage, section) for a in arguments]
    plain = [m["type"] for m in members if set(m) == {"type"}]
    rest = [m for m in members if set(m) != {"type"}]
    if not rest:
        return {"type": plain}
    if not plain and len(rest) == 1:
        return rest[0]
    if plain == ["null"] and len(rest) == 1 and "type" in rest[0]:
        schema = rest[0] | {"type": [rest[0]["type"], "null"]}
        return schema | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})
    return {"anyOf": [*rest, {"type": plain}] if plain else rest}


def write_schemas(directory: Path, keep_going: bool = False) -> None:
    """Write the schema of every stage; `keep_going`: leave out those whose classes are not installed."""
    stages = Path(__file__).parents[1] / "stages"
    for stage in sorted(p.stem for p in stages.glob("*.py") if not p.stem.startswith("_")):
        try:
            schema = make_schema(stage)
        except (ImportError, AttributeError):
            if not keep_going:
                raise
            continue
        text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        (directory / f"{stage}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    into = sys.argv[sys.argv.index("--to") + 1] if "--to" in sys.argv else None
    write_schemas(Path(into) if into else SHIPPED, keep_going=into is not None)
