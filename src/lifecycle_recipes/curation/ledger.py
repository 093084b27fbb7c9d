"""The ledger: rows, bytes and tokens of every step and source, in, out and left out by reason. No torch.

ledger.json: {unit, sources, steps, rules, held_out, mixture, evaluation, files}. A step is {step, sources}, and a
source in it {in, out, left_out, edited, repeated}, each [rows, bytes, tokens]; left_out is by reason.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ..finding import FAILED, Refusal, refuse

Count = list[int]  # [rows, bytes, tokens]


def zero() -> Count:
    return [0, 0, 0]


def add(count: Count, rows: int, size: int, tokens: int) -> None:
    count[0] += rows
    count[1] += size
    count[2] += tokens


class Books:
    """One step: what comes in, stays and goes, by source."""

    def __init__(self, step: str):
        self.step = step
        self.came: dict[str, Count] = defaultdict(zero)
        self.stayed: dict[str, Count] = defaultdict(zero)
        self.left_out: dict[str, dict[str, Count]] = defaultdict(lambda: defaultdict(zero))
        # What edits added to the documents that stayed (mostly less than nothing), and how many were edited.
        self.edited: dict[str, Count] = defaultdict(zero)
        self.repeated: dict[str, Count] = defaultdict(zero)
        self.rules: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def stay(self, source: str, rows: int, size: int, tokens: int) -> None:
        """So many documents that stay as they are."""
        add(self.came[source], rows, size, tokens)
        add(self.stayed[source], rows, size, tokens)

    def edit(self, source: str, before: tuple[int, int], after: tuple[int, int]) -> None:
        add(self.came[source], 1, *before)
        add(self.stayed[source], 1, *after)
        add(self.edited[source], 1, after[0] - before[0], after[1] - before[1])

    def leave_out(self, source: str, reasons: tuple[str, ...], rows: int, size: int, tokens: int) -> None:
        """Documents that go, by their first reason; all their reasons count in the table of rules."""
        add(self.came[source], rows, size, tokens)
        add(self.left_out[source][reasons[0]], rows, size, tokens)
        for reason in reasons:
            self.rules[source][reason] += rows

    def repeat(self, source: str, rows: int, size: int, tokens: int) -> None:
        """More copies of documents that stay."""
        add(self.stayed[source], rows, size, tokens)
        add(self.repeated[source], rows, size, tokens)

    def as_json(self, names: list[str]) -> dict[str, Any]:
        sources = {}
        for name in names:
            entry: dict[str, Any] = {"in": self.came[name], "out": self.stayed[name]}
            entry["left_out"] = dict(sorted(self.left_out[name].items()))
            if self.edited[name][0]:
                entry["edited"] = self.edited[name]
            if self.repeated[name][0]:
                entry["repeated"] = self.repeated[name]
            sources[name] = entry
        return {"step": self.step, "sources": sources}


def check_books(ledger: dict[str, Any], directory: Path) -> None:
    """The steps balance, and the rows of the sources and of the files in `directory` are those of the books.

    Raises Refusal books-unbalanced, a fault of this package.
    """
    steps = ledger["steps"]
    for source in ledger["sources"]:
        came = steps[0]["sources"][source["name"]]["in"][0]
        _require_equal(f"rows of {source['name']}", came, source["rows"])
    held_out = sum(_rows_left_out(step) for step in steps if step["step"] == "held-out")
    left_out = sum(map(_rows_left_out, steps)) - held_out
    out = sum(entry["out"][0] for entry in steps[-1]["sources"].values())
    for name, rows in (("train", out), ("held_out", held_out), ("left_out", left_out)):
        _require_equal(f"rows of {name}.jsonl", rows, _lines(directory / f"{name}.jsonl"))
    check_steps(steps)


def _rows_left_out(step: dict[str, Any]) -> int:
    return sum(count[0] for entry in step["sources"].values() for count in entry["left_out"].values())


def check_steps(steps: list[dict[str, Any]]) -> None:
    """Every row, byte and token that comes into a step stays or is left out, and the next step gets what stayed."""
    for number, step in enumerate(steps):
        for name, entry in step["sources"].items():
            for i, what in enumerate(("rows", "bytes", "tokens")):
                gone = sum(count[i] for count in entry["left_out"].values())
                more = entry.get("repeated", zero())[i] + (entry.get("edited", zero())[i] if i else 0)
                before = steps[number - 1]["sources"][name]["out"][i] if number else entry["in"][i]
                if entry["in"][i] + more != entry["out"][i] + gone or before != entry["in"][i]:
                    counts = f"{entry['in'][i]:,} {what} in, {entry['out'][i]:,} out, {gone:,} left out"
                    raise _unbalanced(f"{step['step']}, {name}: {counts}")


def _require_equal(what: str, books: int, found: int) -> None:
    if books != found:
        raise _unbalanced(f"{what}: {books:,} in the books, {found:,} found")


def _unbalanced(message: str) -> Refusal:
    fix = "report this: a row was lost or counted twice"
    return refuse("books-unbalanced", message, fix, status=FAILED)


def _lines(file: Path) -> int:
    """How many lines a file has; 0 if there is none."""
    if not file.is_file():
        return 0
    with file.open("rb") as stream:
        return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(1 << 20), b""))
