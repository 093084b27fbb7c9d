"""Paths of this machine in what is pushed: the home and the working directory name their user. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROVENANCE = ("id", "source")  # columns that the curation adds to every row; texts are left as they are


def without_private_paths(value: Any) -> Any:
    """JSON values, keys among them, with `~` for the home directory and paths below the working directory relative."""
    if isinstance(value, dict):
        return {without_private_paths(key): without_private_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_private_paths(one) for one in value]
    if not isinstance(value, str):
        return value
    for place, instead in _places().items():
        # Neither the end of a longer path or an address (/mnt/home/me, https://x.io/home/me) nor the start of a longer
        # name (/home/me2).
        path = rf"(?<![\w.~-]){re.escape(place)}(?:/(?=[\w.~-])|(?P<end>/?)(?![\w-]|\.\w))"
        value = re.sub(
            path, lambda found, to=instead: to if found["end"] is None else to.rstrip("/") or ".", value
        )
    return value


def _places() -> dict[str, str]:
    """Directory -> what is written for it and the slash behind it; the innermost first."""
    home = Path.home()
    places = {str(home): "~/", str(home.resolve()): "~/", str(Path.cwd()): ""}
    inner = sorted(places, key=len, reverse=True)
    return {place: places[place] for place in inner if place != Path(place).anchor}


def rows_without_private_paths(file: Path) -> Iterator[str] | None:
    """The lines of a file of curated rows with other provenance columns; None if no line changes."""
    escaped = _escaped()
    if not any(_changed(line, escaped) for line in _lines(file)):
        return None
    return (_changed(line, escaped) or line for line in _lines(file))


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8", newline="\n") as lines:
        yield from lines


def _changed(line: str, escaped: list[str]) -> str | None:
    """A row with other provenance columns; None if it has no path to hide. escaped: what such a line has."""
    if not any(place in line for place in escaped):
        return None
    row = json.loads(line)
    ours = {key: row[key] for key in PROVENANCE if key in row}
    if (other := without_private_paths(ours)) == ours:
        return None
    return json.dumps(row | other, ensure_ascii=False) + "\n"


def _escaped() -> list[str]:
    """The directories as they are in a line of JSON, in Unicode and in ASCII."""
    return [json.dumps(place, ensure_ascii=ascii)[1:-1] for place in _places() for ascii in (False, True)]
