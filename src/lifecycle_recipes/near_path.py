"""An existing path that is written almost as one that does not exist. No torch."""

import os
import re
from difflib import get_close_matches


def near_path(path: str) -> str | None:
    """`recipes/mine` for `recipes/mien`: every part that does not exist is replaced by the nearest name beside it.

    None if `path` exists, or if nothing that exists is similar.
    """
    if os.path.exists(path):
        return None
    head, name = os.path.split(os.path.normpath(path))
    folder = head if os.path.isdir(head or ".") else near_path(head)
    if folder is None or not os.path.isdir(folder or "."):
        return None
    found = os.path.join(folder, name)
    if os.path.exists(found):
        return found
    try:
        beside = sorted(os.listdir(folder or "."))
    except OSError:  # not readable
        return None
    # Without their endings, which make unlike names alike: `else.jsonl`, `rows.jsonl`.
    alike = [other for other in beside if get_close_matches(_stem(name), [_stem(other)], 1, 0.7)]
    near = get_close_matches(name, alike, 1, 0)
    return os.path.join(folder, near[0]) if near else None


def _stem(name: str) -> str:
    return re.sub(r"(?<=.)(\.[a-z]+)+$", "", name)
