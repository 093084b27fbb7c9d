"""Level 1, paths: strings that are not valid paths on any file system."""

import os
from collections.abc import Iterator

from ...finding import Finding
from ...recipe.read import RawRecipe

KEYS = {
    *("path", "output_dir", "model_name_or_path", "tokenizer", "chat_template", "chat_template_path"),
    *("prompts", "rubric", "include_path", "against", "reward_model"),
}
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes; Linux, limits.h


def find_bad_paths(raw: RawRecipe) -> list[Finding]:
    """bad-path for every path of the recipe that is not valid."""
    return [
        Finding.error(
            "bad-path", f"{name} is not a valid path: {reason}", "give a file or directory", raw.place(name)
        )
        for name, value in named_paths(raw.values)
        if (reason := _fault(value))
    ]


def named_paths(values: dict, at: str = "") -> Iterator[tuple[str, str]]:
    """(key such as `data.sources`, path) of every string under a key whose value is a path."""
    for key, value in values.items():
        name = f"{at}.{key}" if at else str(key)
        if isinstance(value, dict):
            yield from named_paths(value, name)
        elif isinstance(value, list):
            for item in value:
                yield from ((name, path) for _, path in (named_paths(item) if isinstance(item, dict) else ()))
        elif key in KEYS and isinstance(value, str):
            yield name, value


def _fault(path: str) -> str:
    try:
        names = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:
        return "it is not valid text"
    if not path.strip():
        return "it is empty"
    if "\0" in path:
        return "it contains a null character"
    if len(os.fsencode(path)) > LONGEST_PATH or any(len(name) > LONGEST_NAME for name in names):
        return f"it is {len(path)} characters long"
    return ""
