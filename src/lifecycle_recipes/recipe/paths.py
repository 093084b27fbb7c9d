"""The paths of a recipe: which keys hold one, and `~` expanded where the recipe is read. No torch.

Upstream expands `~` in some keys and not in others; expanded here, every part of a run uses the same directory.
A relative path stays relative to the current directory: a run is the same one wherever the repository is.
"""

import os
from collections.abc import Iterator
from typing import Any

# Section -> keys whose value is a path, or an id on the Hub. Sources of the data section: `path`.
KEYS = {
    "model": ("model_name_or_path",),
    "reward": ("model_name_or_path",),
    "value": ("model_name_or_path",),
    "architecture": ("tokenizer",),
    "tokenizer": ("output_dir", "chat_template", "extend", "resize_model"),
    "train": ("output_dir", "chat_template_path"),
    "evaluate": ("output_dir", "include_path", "prompts", "rubric", "against", "reward_model"),
    "curate": ("output_dir", "tokenizer"),
    "export": ("output_dir", "prompts", "calibration"),
}
SOURCES = ("sources", "eval_sources")
SIBLINGS = ("average", "adapters")  # of the model section of an export: lists like the sources
# Keys of the steps of curation whose value is a path or an id, or a list of them.
STEPS = ("model", "words", "classifier", "against", "leave")


def paths(values: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name such as `data.sources[0].path`, the mapping or list that has it, its key there) of every given path."""
    for section, keys in KEYS.items():
        for key in keys:
            if isinstance((values.get(section) or {}).get(key), str):
                yield f"{section}.{key}", values[section], key
    for name in SOURCES:
        for i, source in enumerate((values.get("data") or {}).get(name) or []):
            if isinstance(source.get("path"), str):
                yield f"data.{name}[{i}].path", source, "path"
    for name in SIBLINGS:
        for i, sibling in enumerate((values.get("model") or {}).get(name) or []):
            if isinstance(sibling.get("path"), str):
                yield f"model.{name}[{i}].path", sibling, "path"
    for i, step in enumerate((values.get("curate") or {}).get("steps") or []):
        for kind, settings in step.items():
            for key in (k for k in STEPS if settings and k in settings):
                name, value = f"curate.steps[{i}].{kind}.{key}", settings[key]
                if isinstance(value, str):
                    yield name, settings, key
                elif isinstance(value, list):
                    yield from ((f"{name}[{j}]", value, j) for j in range(len(value)))


def expand_paths(values: dict[str, Any]) -> dict[str, str]:
    """Replace `~` and `~user` at the start of every path of `values` by the home directory.

    Returns the replaced paths as they were written, by name.
    """
    written = {}
    for name, mapping, key in paths(values):
        expanded = os.path.expanduser(mapping[key])
        if expanded != mapping[key]:
            written[name], mapping[key] = mapping[key], expanded
    return written
