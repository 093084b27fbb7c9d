"""Where a row of a built training set comes from: its number in the sources, kept while rows are prepared.

`load_data` numbers the rows of all sources consecutively, in a column that tokenising, filtering and
shuffling do not change. Packing does not support such a column: there the numbers are packed separately, in
place of the tokens. The column is removed before a trainer gets the rows, so that no collator or model
receives it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from .row_files import READ_ERRORS, blank_lines, plain_ending

ROW = "__row__"  # a name that no user's column has


@dataclass(frozen=True)
class Place:
    """A row of a source. number: of the line or row, from 1."""

    path: str
    number: int
    unit: str  # lines or rows

    def __str__(self) -> str:
        return places([self])


class Origins:
    """The places of the rows of a training set, read on demand.

    numbers: the column ROW of the set: a number per row (over all sources, from 0), or a list of them if rows
    are packed. sources: those of the ledger.
    """

    def __init__(self, numbers: Any, sources: list[dict]):
        self.numbers, self.sources = numbers, sources
        self.starts = [0, *accumulate(source["rows"] for source in sources)]
        self._lines: dict[str, Callable[[int], int] | None] = {}

    def numbers_of(self, first: int, last: int) -> list[list[int]]:
        """The source row numbers in each row of the training set, from row `first` to before `last`."""
        found = self.numbers[first:last][ROW]
        return [numbers if isinstance(numbers, list) else [numbers] for numbers in found]

    def of(self, row: int) -> list[Place]:
        """The places of the source rows in row `row` of the training set, in order."""
        return [self.place(number) for number in self.numbers_of(row, row + 1)[0]]

    def source(self, number: int) -> int:
        """The index of the source that holds the row with this number."""
        return bisect_right(self.starts, number) - 1

    def place(self, number: int) -> Place:
        source = self.source(number)
        path, row = file_of(self.sources[source], number - self.starts[source])
        if path not in self._lines:
            rows = dict(self.sources[source].get("files", ())).get(path, self.sources[source]["rows"])
            self._lines[path] = line_of_row(path, rows)
        line = self._lines[path]
        return Place(path, line(row), "lines") if line else Place(path, row + 1, "rows")


def file_of(source: dict, row: int) -> tuple[str, int]:
    """(file, row in it) of a row of a source of the ledger; rows are counted from 0."""
    for path, rows in source.get("files", ()):
        if row < rows:
            return path, row
        row -= rows
    return source["path"], row


def line_of_row(path: str, rows: int) -> Callable[[int], int] | None:
    """Row (from 0) -> line (from 1) of a file with one row in each line that is not blank.

    None for other sources, and for a file whose number of such lines is not `rows`.
    """
    if plain_ending(path) not in (".jsonl", ".txt"):
        return None
    try:
        blank, lines = blank_lines(Path(path))
    except READ_ERRORS:
        return None
    if lines - len(blank) != rows:
        return None
    before = [line - 1 - k for k, line in enumerate(blank)]  # rows above each blank line
    return lambda row: row + 1 + bisect_right(before, row)


def places(found: Iterable[Place], most: int = 5) -> str:
    """`file:4 and other.parquet, rows 2, 7`; lists at most `most` rows of each file, each once."""
    files: dict[tuple[str, str], list[int]] = {}
    for place in dict.fromkeys(found):
        files.setdefault((place.path, place.unit), []).append(place.number)
    parts = []
    for (path, unit), numbers in files.items():
        more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
        shown = ", ".join(map(str, numbers[:most])) + more
        if len(numbers) == 1 and unit == "lines":
            parts.append(f"{path}:{shown}")
        else:
            parts.append(f"{path}, {unit if len(numbers) > 1 else unit.removesuffix('s')} {shown}")
    return " and ".join(parts)


# The column


def number_rows(rows: Any, first: int) -> Any:
    """`rows` of a source with consecutive numbers that start at `first`."""
    import numpy as np

    return rows.add_column(ROW, np.arange(first, first + len(rows)))


def take_off(rows: Any) -> Any:
    """`rows` without their numbers."""
    return rows if rows is None or ROW not in rows.column_names else rows.remove_columns(ROW)


def with_packed_numbers(packed: Any, rows: Any, pack: Callable[[Any], Any]) -> Any:
    """`packed` with the numbers of the source rows in each row, as `_unmark` returns them.

    rows: the rows that were packed, with ROW and `input_ids`. pack: packs a Dataset of `input_ids` and
    `labels` with rows of the same lengths in the same way.
    """
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets

    wanted = rows.select_columns(["input_ids", ROW]).with_format("arrow")
    marks = pack(wanted.map(_mark, batched=True, remove_columns=[ROW]).with_format(None))
    tables = [_unmark(table) for table in marks.with_format("arrow").iter(10_000)]
    return concatenate_datasets([packed, Dataset(pa.concat_tables(tables))], axis=1)


def _mark(table):
    """The table with every token replaced by the number of its row."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.list_value_length(table["input_ids"].combine_chunks()).to_numpy(zero_copy_only=False)
    marks = np.repeat(table[ROW].to_numpy(), lengths)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype("int32")
    lists = pa.ListArray.from_arrays(offsets, marks)
    return pa.table({"input_ids": lists, "labels": lists})


def _unmark(table):
    """One number for all tokens of a piece; without piece boundaries, one for each run of equal numbers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    def sizes(column: str):
        return pc.list_value_length(table[column]).to_numpy()

    marks = pc.list_flatten(table["input_ids"]).to_numpy()
    ends = sizes("input_ids").cumsum()
    if "seq_lengths" in table.column_names:
        starts = np.concatenate([[0], pc.list_flatten(table["seq_lengths"]).to_numpy().cumsum()[:-1]])
        counts = sizes("seq_lengths")
    else:
        starts = np.flatnonzero(np.concatenate([[True], marks[1:] != marks[:-1]]))
        starts = np.union1d(starts, np.concatenate([[0], ends[:-1]]))
        counts = np.diff(np.searchsorted(starts, np.concatenate([[0], ends])))
    offsets = np.concatenate([[0], counts.cumsum()]).astype("int32")
    return pa.table({ROW: pa.ListArray.from_arrays(offsets, marks[starts])})
