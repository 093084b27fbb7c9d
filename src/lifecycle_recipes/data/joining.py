"""Sources with the same columns as one Dataset, although their messages differ in keys or in Arrow type."""

from typing import Any

from ..finding import Refusal, refuse
from .row_faults import CONVERSATIONS

_MESSAGES = [f"{column}[]" for column in CONVERSATIONS]


def join(parts: list[Any], paths: list[str]) -> Any:
    """The rows of all Datasets, with the columns and the keys of messages that any has; a missing one is null.

    paths: where each part comes from.
    Raises Refusal missing-column (a prompt that only some have), sources-differ.
    """
    from datasets import Features, concatenate_datasets

    filled = [(part, path) for part, path in zip(parts, paths, strict=True) if len(part)]
    if len(filled) < 2:
        return filled[0][0] if filled else parts[0]
    require_prompts([(path, "prompt" in part.column_names) for part, path in filled])
    columns = list(dict.fromkeys(c for part, _ in filled for c in part.column_names))
    parts = [_with_columns(part, columns) for part, _ in filled]
    if any(part.features != parts[0].features for part in parts):
        features, first = dict(parts[0].features), filled[0][1]
        for part, (_, path) in zip(parts, filled, strict=True):
            features = {c: _union(features[c], part.features[c], c, (first, path)) for c in columns}
        parts = [part if part.features == features else part.cast(Features(features)) for part in parts]
    return concatenate_datasets(parts)


def require_prompts(parts: list[tuple[str, bool]]) -> None:
    """Raise Refusal missing-column unless all parts, (path, whether they have the column prompt), agree."""
    have, lack = ([path for path, has in parts if has is wanted] for wanted in (True, False))
    if have and lack:
        message = f"no column 'prompt', which {have[0]} has"
        fix = "give every source a prompt, or none: `format: hh` or `prompt_completion` make one"
        raise refuse("missing-column", message, fix, lack[0])


def _with_columns(part: Any, columns: list[str]) -> Any:
    """The Dataset with these columns in this order, null where it lacks one."""
    for column in columns:
        if column not in part.column_names:
            part = part.add_column(column, [None] * len(part))
    return part.select_columns(columns)


def _union(ours: Any, theirs: Any, name: str, paths: tuple[str, str]) -> Any:
    """The feature that holds the values of both."""
    from datasets import Json, LargeList, List, Value

    if ours == theirs or _is_null(theirs):
        return ours
    if _is_null(ours):
        return theirs
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys() and name not in _MESSAGES:
            return Json()  # a template would write the added nulls of a function into the prompt
        keys = dict.fromkeys([*ours, *theirs])
        null = Value("null")
        return {k: _union(ours.get(k, null), theirs.get(k, null), f"{name}.{k}", paths) for k in keys}
    if isinstance(ours, List | LargeList) and isinstance(theirs, List | LargeList):
        return List(_union(ours.feature, theirs.feature, f"{name}[]", paths))
    if isinstance(ours, Value) and isinstance(theirs, Value):
        for family in (("string", "large_string"), ("int32", "int64"), ("float32", "int64", "float64")):
            if ours.dtype in family and theirs.dtype in family:
                return Value("string" if family[0] == "string" else family[-1])
    if isinstance(ours, Json) or isinstance(theirs, Json):
        return Json()
    raise _differ(name, (ours, theirs), paths)


def _is_null(feature: Any) -> bool:
    return getattr(feature, "dtype", None) == "null"


def _differ(name: str, features: tuple, paths: tuple[str, str]) -> Refusal:
    kinds = [f"{_kind(feature)} in {path}" for feature, path in zip(features, paths, strict=True)]
    fix = "write it the same way in both, or leave the column out with `columns:`"
    return refuse("sources-differ", f"{name} is {kinds[0]} and {kinds[1]}", fix, paths[1])


def _kind(feature: Any) -> str:
    if isinstance(feature, dict):
        return f"an object ({', '.join(feature)})"
    return {"List": "a list", "LargeList": "a list"}.get(
        type(feature).__name__, f"a {getattr(feature, 'dtype', type(feature).__name__)}"
    )
