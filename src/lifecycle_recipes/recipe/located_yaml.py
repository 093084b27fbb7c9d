"""Strict YAML that keeps the place of every value. No torch.

PyYAML reads YAML 1.1, where `2e-5` is a string and `no` a boolean. Recipes follow the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema), which is also what editors check them with.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from ..finding import Finding, refuse
from ..redact import hide_secrets

MAX_VALUES = 100_000  # aliases can unfold a small file without bound ("billion laughs")


@dataclass(slots=True)
class Located:
    """A value and its place. value: scalar, list[Located] or dict[key, Located]. where: `file:line`."""

    value: Any
    where: str


class CoreLoader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2."""

    yaml_implicit_resolvers = {}


_CORE_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _name, (_pattern, _first) in _CORE_SCALARS.items():
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(text: str, place: Callable[[int], str]) -> tuple[Located | None, list[Finding]]:
    """The tree of `text` (None if it is empty) and a finding per key that is given twice.

    place: maps a line number, counted from 1, to the text of `Located.where`.
    Raises Refusal (`bad-yaml`) if the text is not one YAML document.
    """
    try:
        loader = CoreLoader(text)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise refuse(
            "bad-yaml", f"character {e.character:#x} is not allowed in YAML", "", place(line)
        ) from None
    except yaml.MarkedYAMLError as e:
        raise refuse("bad-yaml", f"not YAML: {_explain(e)}", "", place(_line(e))) from None
    except RecursionError:
        raise refuse("bad-yaml", "nested too deeply", "", place(1)) from None
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None):
        return None, []
    tree = _Tree(place)
    return tree.convert(node, tree.where(node)), tree.findings


# PyYAML's message for something that was begun, and is seen to be unfinished only on a later line.
_UNFINISHED = ("found unexpected end of stream", "could not find expected ':'", "expected ',' or")


def _line(e: yaml.MarkedYAMLError) -> int:
    """The line of the mistake, from 1."""
    begun = e.context_mark if (e.problem or "").startswith(_UNFINISHED) else None
    return (begun or e.problem_mark or e.context_mark).line + 1


def _explain(e: yaml.MarkedYAMLError) -> str:
    problem = e.problem or e.context or "syntax error"
    if problem.startswith("found unexpected end of stream"):
        return "the quote that this line opens is not closed"
    if problem.startswith("could not find expected ':'"):
        return "a `:` is missing after the key on this line"
    if problem.startswith("expected ',' or"):
        bracket = problem.partition(" or ")[2][1]
        return f"what this line opens is not closed: a `,` or `{bracket}` is missing"
    if problem.startswith("expected <block end>, but found"):
        found = problem.rpartition("'")[0].rpartition("'")[2]
        if found in ("]", "}", ","):
            return f"the `{found}` on this line is one too many"
        return "this line is not indented as the lines that it belongs to (or is a list item beside keys)"
    if problem.startswith("found undefined alias") or e.context == "while scanning an alias":
        return "a value that starts with `*` needs quotes"
    if "that cannot start any token" in problem and "'\\t'" not in problem:
        return f"a value that starts with `{problem.split(chr(39))[1]}` needs quotes"
    if "'\\t'" in problem:
        return "this line is indented with a tab; use spaces"
    if "but found another document" in problem:
        return "a second document starts here (`---`); a recipe is one document"
    if problem == "mapping values are not allowed here":
        return "a `:` is not allowed here (wrong indentation, or a string with `: ` that needs quotes)"
    return hide_secrets(problem)


class _Tree:
    """One conversion of composed nodes to Located values."""

    def __init__(self, place: Callable[[int], str]):
        self.place = place
        self.findings: list[Finding] = []
        self.count = 0
        self.open: set[int] = set()  # nodes in conversion: an alias to one of them is a loop

    def where(self, node: yaml.Node) -> str:
        return self.place(node.start_mark.line + 1)

    def convert(self, node: yaml.Node, where: str) -> Located:
        self.count += 1
        if id(node) in self.open or self.count > MAX_VALUES:
            raise refuse("bad-yaml", "an alias (`*name`) contains itself", "", where)
        if isinstance(node, yaml.ScalarNode):
            return Located(self.scalar(node), where)
        self.open.add(id(node))
        value = self.sequence(node) if isinstance(node, yaml.SequenceNode) else self.mapping(node)
        self.open.discard(id(node))
        return Located(value, where)

    def sequence(self, node: yaml.SequenceNode) -> list[Located]:
        self.expect_tag(node, "seq")
        return [self.convert(item, self.where(item)) for item in node.value]

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Located]:
        self.expect_tag(node, "map")
        entries: dict[Any, Located] = {}
        for key_node, value_node in node.value:
            where = self.where(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise refuse("bad-yaml", "a list or a mapping cannot be a key", "", where)
            key = self.scalar(key_node)
            value = self.convert(value_node, where)
            # `1`, `true` and `1.0` are equal in Python; keys of a recipe are not
            twin = next((k for k in entries if k == key and type(k) is type(key)), None)
            if twin is not None:
                message = f"`{key_node.value}` is given twice (first at {entries[twin].where})"
                self.findings.append(Finding.error("duplicate-key", message, "", where))
            else:
                entries[key] = value
        return entries

    def expect_tag(self, node: yaml.Node, name: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{name}":
            raise refuse("bad-yaml", f"the tag `{node.tag}` is not allowed in a recipe", "", self.where(node))

    def scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
        try:
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
            if kind == "float":
                return float(
                    text.replace(".inf", "inf").replace(".nan", "nan") if text[-1:] in "fFnN" else text
                )
        except (ValueError, KeyError):
            raise refuse(
                "bad-yaml", f"`{text[:40]}` cannot be read as {kind}", "", self.where(node)
            ) from None
        raise refuse("bad-yaml", f"the tag `{node.tag}` is not allowed in a recipe", "", self.where(node))
