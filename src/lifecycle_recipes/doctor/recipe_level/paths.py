"""Level 1, paths: strings that cannot be the path that was meant."""

import os
import re

from ...finding import Finding
from ...recipe.paths import paths
from ...recipe.read import RawRecipe

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes; Linux, limits.h
VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def find_bad_paths(raw: RawRecipe) -> list[Finding]:
    """bad-path for every path of the recipe that is not valid, or that needs a shell to be read."""
    findings = []
    for name, mapping, key in paths(raw.values):
        if fault := _fault(mapping[key]) or _unexpanded(mapping[key]):
            problem, fix = fault
            section = name.partition(".")[0]
            message = f"{name} is not a valid path: {problem}"
            findings.append(Finding.error("bad-path", message, fix, raw.place(name, section)))
    return findings


def _fault(path: str) -> tuple[str, str] | None:
    """(what is wrong, fix) of a string that is no path on any file system."""
    fix = "give a file or directory"
    try:
        names = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:
        return "it is not valid text", fix
    if not path.strip():
        return "it is empty", fix
    if "\0" in path:
        return "it contains a null character", fix
    if len(os.fsencode(path)) > LONGEST_PATH or any(len(name) > LONGEST_NAME for name in names):
        return f"it is {len(path)} characters long", fix
    return None


def _unexpanded(path: str) -> tuple[str, str] | None:
    """A variable, or the home of a user who does not exist. A file may have such a name."""
    if os.path.lexists(path):
        return None
    if path.startswith("~"):
        return f"{path.split('/')[0]} is no user's home directory", "write the path from / on"
    if variable := VARIABLE.search(path):
        fix = "write the path itself, or give it on the command line, where the shell reads variables"
        return f"{variable[0]} is not expanded in a recipe", fix
    return None
