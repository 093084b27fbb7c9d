"""Recipes and rows for the tests of level 2 on tokens, and what it finds in them."""

from types import SimpleNamespace

from lifecycle_recipes.data.row_sets import RowSet
from lifecycle_recipes.doctor.row_level.tokens import find_in_tokens


def raw_recipe(stage: str, path, train: dict | None = None, **sections):
    """As `read_recipe` gives it, with places for every key of train."""
    values = {"model": {"model_name_or_path": str(path)}, "train": train or {}, "data": {}} | sections
    places = {f"{section}.{key}": f"r.yaml:{section}.{key}" for section in values for key in values[section]}
    return SimpleNamespace(stage=stage, values=values, places=places | {"train": "r.yaml:train"}, allow={})


def rows_of(rows: list[dict], use="train") -> list[RowSet]:
    return [RowSet(use, "rows.jsonl", rows, list(range(1, len(rows) + 1)))]


def find(stage, path, rows, train=None, **sections):
    return find_in_tokens(raw_recipe(stage, path, train, **sections), rows_of(rows))


def codes(findings) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in findings]


def chat(answer: str, question: str = "Which colour?") -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
