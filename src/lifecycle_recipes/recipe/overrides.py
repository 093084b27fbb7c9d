"""Overrides on the command line: `--train.seed 1`, `--learning_rate=2e-5`, strict like the file. No torch."""

from ..finding import Finding, Refusal
from ..redact import is_secret
from .check import Checker, dotted
from .located_yaml import Located, read_yaml

FLAGS = ("--allow-failed-parent", "--replace", "--debug", "--verbose")


def split_arguments(arguments: list[str]) -> tuple[list[tuple[str, str]], set[str], list[Finding]]:
    """(name, YAML text) of every override in order, the flags without dashes, and what could not be read."""
    overrides: list[tuple[str, str]] = []
    flags: set[str] = set()
    findings: list[Finding] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in FLAGS:
            flags.add(argument.removeprefix("--"))
        elif not argument.startswith("--") or argument == "--":
            dashes = f"write --{argument}" if "=" in argument else "write --section.key value"
            message = f"`{argument}` is not an override: {dashes}"
            findings.append(Finding.error("unknown-override", message, "", "command line"))
        else:
            name, equals, text = argument.partition("=")
            if not equals and rest and not rest[0].startswith("--"):
                text = rest.pop(0)
            if text.strip():
                overrides.append((name.removeprefix("--"), text))
            else:
                message = "has no value: write one after it (null removes a key)"
                findings.append(Finding.error("valueless-override", message, "", name))
    return overrides, flags, findings


def apply_overrides(tree: Located, overrides: list[tuple[str, str]], checker: Checker) -> None:
    """Put every override into `tree`; add findings about wrong ones to `checker.findings`."""
    seen: dict[tuple, str] = {}
    for name, text in overrides:
        flag = f"--{name}"
        path = _path(name, checker)
        if path is None:
            continue
        if path in seen:
            same = "" if seen[path] == flag else f" (also as {seen[path]})"
            checker.say(
                "duplicate-override", flag, f"{dotted(path)} is given twice on the command line{same}"
            )
            continue
        seen[path] = flag
        # the checker rejects the key of a secret, so its value is not used
        value = Located(None, flag) if is_secret(path[-1]) else _value(flag, text, checker)
        if value is None:
            continue
        is_item = path[-1].isdigit()
        if value.value is None and not is_item and not checker.may_be_null(path):
            _remove(tree, path)
        else:
            _put(tree, path, value, checker)


def _path(name: str, checker: Checker) -> tuple | None:
    """The key that an override refers to; None, with a finding, if there is no such key or more than one."""
    parts = tuple(name.split("."))
    properties = checker.schema["properties"]
    flag = f"--{name}"
    if parts[0] == "stage":
        return checker.say("unknown-override", flag, "the stage of a recipe cannot be overridden")
    if len(parts) > 1 or name in properties or is_secret(name):
        return parts
    sections = [s for s, p in properties.items() if name in p.get("properties", {})]
    if len(sections) > 1:
        choices = " or ".join(f"--{s}.{name}" for s in sections)
        return checker.say(
            "ambiguous-override", flag, f"{name} is a key of several sections: write {choices}"
        )
    if sections:
        return (sections[0], name)
    code, _, message = checker.unknown(name, (), properties, flag)
    return checker.say(code, flag, message)


def _value(flag: str, text: str, checker: Checker) -> Located | None:
    try:
        value, findings = read_yaml(text, lambda line: flag)
    except Refusal as e:
        for finding in e.findings:
            checker.say("bad-override", flag, finding.message)
        return None
    checker.findings += findings
    return value


def _remove(tree: Located, path: tuple) -> None:
    """Remove the key that `path` refers to, if it is there: its default holds again."""
    node = tree
    for part in path[:-1]:
        below = node.value
        if isinstance(below, list):
            below = {str(i): item for i, item in enumerate(below)}
        if not isinstance(below, dict) or part not in below:
            return
        node = below[part]
    if isinstance(node.value, dict):
        node.value.pop(path[-1], None)


def _put(tree: Located, path: tuple, value: Located, checker: Checker) -> None:
    node = tree
    for i, part in enumerate(path):
        if isinstance(node.value, list):
            if not part.isdigit() or int(part) >= len(node.value):
                message = f"{dotted(path[:i])} is a list of {len(node.value)}, counted from 0"
                return checker.say("unknown-override", value.where, message)
            part = int(part)
        elif not isinstance(node.value, dict):
            node.value = {}
        if i == len(path) - 1:
            node.value[part] = value
        elif isinstance(node.value, dict):
            node = node.value.setdefault(part, Located({}, value.where))
        else:
            node = node.value[part]
