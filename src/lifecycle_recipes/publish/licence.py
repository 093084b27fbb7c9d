"""The licence of a run, where everything that it was made from carries one and the same; never a guess. No torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..models.card_licence import hub_licence
from ..record.file import LEDGER_FILE
from ..record.parents import is_local, named_parents
from .lineage import place_of

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # of a licence, as the Hub writes them
UNCLEAR = ("other", "unknown")  # of the Hub's identifiers: no licence is named
COMPARED = ("against", "reward_model")  # roles of models that are only compared with


def derived_licence(chain: dict[str, dict[str, Any]]) -> str | None:
    """The licence that all origins of a chain of records carry (`origins`); None if one is unknown or another."""
    carried = {licence and licence.lower() for licence in origins(chain).values()}
    if len(carried) != 1 or (licence := carried.pop()) is None:
        return None
    return licence if IDENTIFIER.fullmatch(licence) and licence not in UNCLEAR else None


def origins(chain: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    """What a run was made from -> its licence, None if that is unknown.

    Curated sources: by the ledger. Models and data sets of the Hub: by their cards. Unknown: other files, and runs and
    models without a record.
    """
    found: dict[str, str | None] = {}
    known = {os.path.realpath(place) for place in chain}
    for place, record in chain.items():
        if record.get("stage") == "curate":
            ledger = json.loads((Path(place) / LEDGER_FILE).read_text("utf-8"))
            found |= {source["name"]: source.get("license") for source in ledger["sources"]}
            continue
        values, parents = record.get("settings") or {}, record.get("parents") or {}
        places = {role: place_of(place, parent) for role, parent in parents.items()}
        found |= {path: None for path in places.values() if os.path.realpath(path) not in known}
        found |= _models(values)
        found |= _rows(values, list(places.values()))
    return found


def _models(values: dict[str, Any]) -> dict[str, str | None]:
    """Models of the Hub from which a run started."""
    revision = (values.get("model") or {}).get("model_revision")
    return {
        path: hub_licence("model", path, revision if role == "model" else None)
        for role, path in named_parents(values).items()
        if role not in COMPARED and not is_local(path)
    }


def _rows(values: dict[str, Any], parents: list[str]) -> dict[str, str | None]:
    """Sources of the training rows that are no curated runs."""
    below = tuple(os.path.realpath(path) + os.sep for path in parents)
    found: dict[str, str | None] = {}
    for source in (values.get("data") or {}).get("sources") or []:
        path = source["path"]
        if is_hub_id(path):
            found[path] = hub_licence("dataset", path, source.get("revision"))
        elif not f"{os.path.realpath(path)}{os.sep}".startswith(below):
            found[path] = None
    return found


def is_hub_id(path: str) -> bool:
    return not is_local(path) and not Path(path).suffix and path.count("/") == 1
