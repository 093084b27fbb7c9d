"""A row as its source stores it and as the stage reads it, for sources in another format than the stage's."""

from __future__ import annotations

import json
import os
from itertools import islice
from typing import TYPE_CHECKING

from ..data.config import stage_columns
from ..data.formats import converter, converts, name_map
from ..data.provenance import file_of
from ..data.row_files import check_local, each_row
from ..record.file import LEDGER_FILE

if TYPE_CHECKING:
    from .trace import Trace

LONGEST = 300  # characters that are shown of either


def stored_and_read(trace: Trace, number: int) -> list[tuple[str, str]]:
    """[(title, row as JSON)]: as it is stored, as it is read, where it is converted; for a curated row its raw row.

    number: of the row, over all sources. Rows of the Hub are not read again.
    """
    recipe, index = trace.recipe, trace.origins.source(number)
    source = [*recipe.data.sources, *recipe.data.eval_sources][index]
    is_curated = os.path.exists(os.path.join(os.path.dirname(source.path), LEDGER_FILE))
    if not (converts(source) or is_curated) or not check_local(source.path):
        return []
    path, row = file_of(trace.origins.sources[index], number - trace.origins.starts[index])
    stored = next(islice(each_row(path, source), row, None))
    origin = [("curated from", str(stored["id"]))] if is_curated and "id" in stored else []
    if not converts(source):
        return origin
    required, optional = stage_columns(recipe.raw.stage, recipe.raw.values)
    theirs = name_map(source, required, optional)
    read = converter(source, required)({ours: stored.get(name) for ours, name in theirs.items()})
    return [*origin, ("stored", _short(stored)), ("read as", _short(read))]


def _short(row: dict) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"
