"""The schemas as an editor meets them: valid, where the recipes name them, printed by `lifecycle schema`."""

import json
from pathlib import Path

import pytest
from repository import ROOT

from lifecycle_recipes import cli
from lifecycle_recipes.recipe.schema import SHIPPED, load_schema, stage_names

RECIPES = sorted((ROOT / "recipes").glob("[!b]*/*.yaml"))  # those in broken/ are wrong on purpose
TYPES = {"null", "boolean", "integer", "number", "string", "array", "object"}
# keyword of JSON Schema (draft 2020-12) -> what it holds
KEYWORDS = {
    "$schema": str,
    "additionalProperties": (bool, dict),
    "anyOf": list,
    "default": object,
    "description": str,
    "enum": list,
    "exclusiveMaximum": (int, float),
    "exclusiveMinimum": (int, float),
    "items": dict,
    "maximum": (int, float),
    "minimum": (int, float),
    "not": dict,
    "properties": dict,
    "required": list,
    "title": str,
    "type": (str, list),
    "x-versions": dict,
}


def subschemas(schema: dict):
    yield schema
    below = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    for part in [*below, schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(part, dict):
            yield from subschemas(part)


@pytest.mark.parametrize("stage", stage_names())
def test_it_is_json_schema(stage):
    schema = load_schema(stage)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in subschemas(schema):
        assert all(isinstance(value, KEYWORDS[keyword]) for keyword, value in part.items())
        types = part.get("type", [])
        assert set([types] if isinstance(types, str) else types) <= TYPES
        assert part.get("enum") != [] and part.get("anyOf") != []
        assert set(part.get("required", [])) <= set(part.get("properties", {}))


@pytest.mark.parametrize("stage", stage_names())
def test_the_command_prints_it_and_nothing_else(stage, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["schema", stage])
    out, err = capsys.readouterr()
    assert end.value.code == 0 and err == ""
    assert json.loads(out) == load_schema(stage)


def test_an_unknown_stage_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["schema", "stf"])
    assert end.value.code == 2 and "[unknown-stage]" in capsys.readouterr().err


def test_every_top_level_key_says_what_it_is():
    for stage in stage_names():
        for key in ("stage", "gate", "allow", "pinned"):
            assert load_schema(stage)["properties"][key]["description"], (stage, key)


def test_schemas_at_the_top_are_those_of_the_package():
    assert (ROOT / "schemas").resolve() == SHIPPED
    assert not Path((ROOT / "schemas").readlink()).is_absolute()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_names_the_schema_of_its_stage(path):
    text = path.read_text("utf-8")
    (named,) = [line for line in text.splitlines()[:6] if "yaml-language-server" in line]
    stage = next(line for line in text.splitlines() if line.startswith("stage:")).split()[1]
    assert named.startswith("# yaml-language-server: $schema=")
    assert (path.parent / named.partition("=")[2]).resolve() == SHIPPED / f"{stage}.json"
