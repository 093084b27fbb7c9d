"""What each packing strategy would make of the documents of a training set: computed from their lengths alone.

The rules are those of `trl.pack_dataset` and of data/packing.py; tests hold the results against both.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from ..data.packing import PACKED_TOGETHER
from ..data.shares import has_weights

if TYPE_CHECKING:
    from .totals import Totals
    from .trace import Trace

# `datasets.map` packs batches of so many rows, each on its own; pretraining sets another number.
UPSTREAM_TOGETHER = 1_000


@dataclass(frozen=True)
class Packed:
    """One strategy. rows: of the packed set. kept, cut: tokens of the documents; cut ones are lost. filled: share of
    rows x length with a token. padding: positions of a batch without a token. split: documents in several pieces.
    """

    name: str
    rows: int
    kept: int
    cut: int
    filled: float
    padding: int
    split: int


def packing_lines(trace: Trace, totals: Totals) -> list[str]:
    """The table of strategies; empty for a stage that does not pack, or without a length."""
    trainer, stage = trace.trainer, trace.recipe.raw.stage
    if stage == "pretrain":
        limit, effective = trace.recipe.text.block_size, trace.recipe.text.packing
        found = of_blocks(document_lengths(trace, totals, limit, 1), limit)
    elif stage == "sft" and (limit := trainer.args.max_length):
        effective = trainer.args.packing_strategy if trainer.args.packing else "none"
        lengths = document_lengths(trace, totals, limit, 0)
        found = of_rows(lengths, limit, trainer.args.per_device_train_batch_size, trainer.padding_free)
    else:
        return []
    return table(found, effective)


def document_lengths(trace: Trace, totals: Totals, limit: int, overlap: int) -> list[int]:
    """Tokens of each document before it was truncated or split, in the order in which documents are packed.

    overlap: tokens that two consecutive pieces of a document share.
    """
    if not trace.documents_end:  # `wrapped`: only tokenising again tells
        return [len(document) for (document,) in trace.whole(sorted(trace.used())).values()]
    numbers = list(totals.pieces)
    if trace.recipe.raw.stage == "pretrain" and not has_weights(trace.recipe.data):
        numbers.sort()  # rows are packed in the order of the sources
    found: list[int] = []
    for number in numbers:
        sizes = totals.pieces[number]
        if number in totals.whole:
            found += [totals.whole[number]] * len(sizes)
        elif trace.splits:
            found += joined(sizes, limit, overlap)
        else:
            found += sizes
    return found


def joined(sizes: list[int], limit: int, overlap: int) -> list[int]:
    """Lengths of the copies of one document, of all pieces: one piece of each copy is shorter than `limit`."""
    short = [size for size in sizes if size < limit]
    if len(short) < 2:
        return [sum(sizes) - overlap * (len(sizes) - 1)]
    full = (len(sizes) - len(short)) // len(short)
    return [size + full * (limit - overlap) for size in short]


def of_rows(lengths: list[int], limit: int, batch: int, padding_free: bool = False) -> list[Packed]:
    """The strategies of `train.packing_strategy`, and rows without packing.

    Rows packed by `bfd` are joined to one line without padding, as upstream does; others are padded to the longest
    of their batch.
    """
    cut = [min(length, limit) for length in lengths]
    fragments = [list(_fragments(length, limit)) for length in lengths]
    many = sum(len(parts) > 1 for parts in fragments)
    wrapped = [size for some in _batches(lengths, UPSTREAM_TOGETHER) for size in _fragments(sum(some), limit)]
    return [
        _packed("bfd", lengths, limit, _bins(cut, limit, UPSTREAM_TOGETHER), sum(cut), 0, 0),
        _packed("bfd_split", lengths, limit, _bins_of(fragments, limit), sum(lengths), 0, many),
        _packed(
            "wrapped",
            lengths,
            limit,
            len(wrapped),
            sum(lengths),
            _padding(wrapped, batch),
            sum(_straddling(some, limit) for some in _batches(lengths, UPSTREAM_TOGETHER)),
        ),
        _packed(
            "none", lengths, limit, len(lengths), sum(cut), 0 if padding_free else _padding(cut, batch), 0
        ),
    ]


def of_blocks(lengths: list[int], limit: int) -> list[Packed]:
    """The strategies of `text.packing`, and for comparison two of upstream's. Every row is padded to `limit`.

    A document that is longer than a block is split into pieces that overlap by one token, so its tokens take
    more positions than it has.
    """
    pieces = [
        min(limit, length - start) for length in lengths for start in range(0, max(length - 1, 1), limit - 1)
    ]
    many, cut = sum(length > limit for length in lengths), [min(length, limit) for length in lengths]
    total, positions = sum(lengths), sum(pieces)
    rows = {
        "bfd": (_bins(pieces, limit, PACKED_TOGETHER), total, positions, many),
        "none": (len(pieces), total, positions, many),
        "wrapped (not offered)": (-(-total // limit), total, total, _straddling(lengths, limit)),
        "bfd that truncates (not offered)": (
            _bins(cut, limit, PACKED_TOGETHER),
            sum(cut),
            sum(cut),
            0,
        ),
    }
    return [
        Packed(name, number, kept, total - kept, used / max(number * limit, 1), number * limit - used, split)
        for name, (number, kept, used, split) in rows.items()
    ]


def _packed(
    name: str, lengths: list[int], limit: int, rows: int, kept: int, padding: int, split: int
) -> Packed:
    return Packed(name, rows, kept, sum(lengths) - kept, kept / max(rows * limit, 1), padding, split)


def best_fit_rows(lengths: list[int], limit: int) -> int:
    """Rows of `limit` tokens that best-fit decreasing fills with these documents, none of them longer."""
    rows, spaces = 0, []  # free tokens of the rows that are not full, sorted
    for length in sorted(lengths, reverse=True):
        if not length:
            continue
        place = bisect_left(spaces, length)
        if place == len(spaces):
            rows += 1
            space = limit - length
        else:
            space = spaces.pop(place) - length
        if space:
            insort(spaces, space)
    return rows


def _bins(lengths: list[int], limit: int, together: int) -> int:
    return sum(best_fit_rows(some, limit) for some in _batches(lengths, together))


def _bins_of(fragments: list[list[int]], limit: int) -> int:
    """Rows of documents that are split: the pieces of one are packed together."""
    return sum(
        best_fit_rows([size for parts in some for size in parts], limit)
        for some in _batches(fragments, UPSTREAM_TOGETHER)
    )


def _fragments(length: int, limit: int) -> Iterator[int]:
    for start in range(0, length, limit):
        yield min(limit, length - start)


def _straddling(lengths: Sequence[int], limit: int) -> int:
    """Documents that are in more than one row if all are written one after the other."""
    ends = list(accumulate(lengths))
    return sum((end - n) // limit != (end - 1) // limit for n, end in zip(lengths, ends, strict=True) if n)


def _batches(values: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _padding(sizes: list[int], batch: int) -> int:
    """Positions without a token in batches of `batch` rows in this order, padded to their longest row."""
    return sum(max(some) * len(some) - sum(some) for some in _batches(sizes, batch))


def table(found: list[Packed], effective: str) -> list[str]:
    """A line per strategy; that of the recipe is marked."""
    head = ["strategy", "rows", "filled", "kept", "truncated", "padding", "documents split"]
    lines = [head] + [
        [
            f"{row.name} (this recipe)" if row.name == effective else row.name,
            *(f"{row.rows:,}", f"{row.filled:.1%}", f"{row.kept:,}", f"{row.cut:,}", f"{row.padding:,}"),
            f"{row.split:,}",
        ]
        for row in found
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
