"""Every failure has a name of its own, and docs/checks.md lists them all."""

import ast
import re

from repository import ROOT

from lifecycle_recipes.doctor.codes import CODES, ELSEWHERE

PACKAGE = ROOT / "src" / "lifecycle_recipes"
# Functions whose first argument is the code of a finding.
NAMING = {"Finding", "refuse", "say", "error", "warning", "_error"}
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def strings_and_codes() -> tuple[set[str], dict[str, str]]:
    """(every string of the source but codes.py, {code given to a naming function: file:line})."""
    strings, codes = set(), {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.name == "codes.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
            if isinstance(node, ast.Call) and node.args and _name(node.func) in NAMING:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    codes.setdefault(first.value, f"{file.name}:{node.lineno}")
    return strings, codes


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def test_every_code_in_the_source_is_listed():
    _, codes = strings_and_codes()
    codes = {code: place for code, place in codes.items() if CODE.fullmatch(code)}
    assert len(codes) > 60
    assert {code: place for code, place in codes.items() if code not in CODES} == {}


def test_every_listed_code_is_used_and_says_what_it_means():
    strings, _ = strings_and_codes()
    assert sorted(set(CODES) - strings) == []
    assert set(CODES) >= ELSEWHERE
    assert list(CODES) == sorted(CODES)
    for code, meaning in CODES.items():
        assert CODE.fullmatch(code) and 10 < len(meaning) < 100 and meaning[-1] != ".", code
    assert len(set(CODES.values())) == len(CODES)


def test_the_docs_show_the_table():
    text = (ROOT / "docs" / "checks.md").read_text("utf-8")
    shown = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", text, re.M))
    assert shown == CODES
