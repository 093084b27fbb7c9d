"""Which rows train, so that each source has the share of the tokens that its weight asks for.

Weights are relative: 3 and 1 are 75 % and 25 % of the tokens. Every source has as many tokens for its weight
as the scarcest one, so that nothing is repeated; with data.max_repetition above 1, up to as many as the most
plentiful one, and scarcer sources are repeated.

`load_data` knows only characters. Once the rows are tokenised, the tokens per character of each source are
known: where a share then misses its weight, the rows are chosen and prepared a second time (`meet_weights`).
Before there is a tokenizer, a weight is a share of the bytes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal

from ..finding import Finding, refuse
from .config import DataConfig
from .provenance import ROW

Unit = Literal["tokens", "bytes"]
WEIGHT = "weight"  # the reason in the ledger
# Shares of 1: a share that misses its weight by more is corrected, and what then remains is reported.
CORRECTED, REPORTED = 0.005, 0.02
# Columns of ids after a prompt; each is a sequence of its own, with the prompt before it.
REPLIES = ("chosen_ids", "rejected_ids", "completion_ids")


def choose(config: DataConfig, train: list[int], sizes: list[int], ledger: dict) -> list[int]:
    """Indices of the joined rows to train on, in a seeded order; a repeated row is there several times.

    train: indices of the joined rows that are not held out. sizes: characters of every joined row.
    The ledger gets `repeated`, the rows left out, and for each source `weight`, `weight_in_characters`,
    `rows_chosen`, `characters_chosen`, `epochs` (passes over its training rows in one epoch of the training
    set) and `share_rows`.
    Raises Refusal no-rows if all rows of a source are held out.
    """
    import numpy as np

    entries = _entries(ledger)
    weights = np.array([source.weight for source in config.sources], dtype=float)
    ends = list(accumulate(entry["kept"] for entry in entries))
    rows: list[list[int]] = [[] for _ in entries]
    for index in train:
        rows[bisect_right(ends, index)].append(index)
    if empty := [entry["path"] for entry, own in zip(entries, rows, strict=True) if not own]:
        raise refuse(
            "no-rows",
            "all of its rows are left out or held out, so its weight cannot be met",
            "lower data.eval_fraction, or remove the source",
            empty[0],
        )
    # A row without characters of its own (a call of a tool) has tokens all the same.
    lengths = [np.maximum([sizes[i] for i in own], 1) for own in rows]
    wanted = weights * per_weight(np.array([own.sum() for own in lengths]) / weights, config.max_repetition)
    random = np.random.default_rng(config.seed)
    chosen, left_out = [], 0
    for entry, own, length, size, weight in zip(entries, rows, lengths, wanted, weights, strict=True):
        taken = take(length, size, random)
        chosen += [own[i] for i in taken]
        left_out += len(own) - len(set(taken))
        entry |= {
            "weight": float(weight),
            "weight_in_characters": float(weight),
            "rows_chosen": len(taken),
            "characters_chosen": int(length[taken].sum()),
            "epochs": float(f"{len(taken) / len(own):.4g}"),
        }
    for entry in entries:
        entry["share_rows"] = round(entry["rows_chosen"] / len(chosen), 4)
    if left_out:
        ledger["left_out"][WEIGHT] = left_out
    if repeated := len(chosen) - len(set(chosen)):
        ledger["repeated"] = repeated
    return [chosen[i] for i in random.permutation(len(chosen))]


def per_weight(passes: Any, max_repetition: float) -> float:
    """Characters per unit of weight. passes: the same for one pass over each source."""
    return min(passes.min() * max_repetition, passes.max())


def take(lengths: Any, size: float, random: Any) -> list[int]:
    """Indices of rows with about `size` characters: whole passes, then a sample; at least one row."""
    import numpy as np

    whole, rest = divmod(size * (1 + 1e-9), lengths.sum())
    order = random.permutation(len(lengths))
    totals = np.concatenate([[0], lengths[order].cumsum()])
    part = int(np.abs(totals - rest).argmin())
    return [*list(range(len(lengths))) * int(whole), *order[: part or int(not whole)].tolist()]


def meet_weights(
    data: DataConfig,
    prepare: Callable[[DataConfig, bool], tuple],
    count: Callable[[Any, list[int]], list[int] | None],
    unit: Unit = "tokens",
) -> tuple:
    """(train, held-out, ledger) of `prepare(data, again)`, whose shares of the tokens or bytes are the weights.

    prepare: the rows with the weights of `data`, which are shares of characters; called a second time, with
    `again`, if the shares of the unit differ. Without weights it is called once. count(rows, rows of each
    source): the units of each source, or None if they are unknown.
    """
    done = prepare(data, False)
    if not has_weights(data) or not _count(done, count, unit):
        return done
    entries = _entries(done[2])
    # A source whose rows are all dropped, since they are too long, has no tokens per character.
    if max(map(_missed, entries)) > CORRECTED and all(entry[unit] for entry in entries):
        # Characters per token, of the rows as they are trained on: with the template, and truncated.
        weights = [
            source.weight * entry["characters_chosen"] / entry[unit]
            for source, entry in zip(data.sources, entries, strict=True)
        ]
        sources = [replace(s, weight=w) for s, w in zip(data.sources, weights, strict=True)]
        done = prepare(replace(data, sources=sources), True)
        for source, entry in zip(data.sources, _entries(done[2]), strict=True):
            entry["weight"] = source.weight
        _count(done, count, unit)
    return done


def has_weights(data: DataConfig) -> bool:
    return any(source.weight is not None for source in data.sources)


def in_characters(data: DataConfig, ledger: dict) -> DataConfig:
    """`data` with the weights that chose the rows of this ledger."""
    if not has_weights(data):
        return data
    weights = [entry["weight_in_characters"] for entry in _entries(ledger)]
    sources = [replace(s, weight=w) for s, w in zip(data.sources, weights, strict=True)]
    return replace(data, sources=sources)


def _entries(ledger: dict) -> list[dict]:
    return [entry for entry in ledger["sources"] if entry["use"] == "train"]


def _share(entry: dict) -> float:
    """The share that the source has, of the tokens or of the bytes."""
    return entry["share_tokens"] if "share_tokens" in entry else entry["share_bytes"]


def _missed(entry: dict) -> float:
    return abs(_share(entry) - entry["share_wanted"])


def _count(done: tuple, count: Callable[[Any, list[int]], list[int] | None], unit: Unit) -> bool:
    """Add the units, their share and `share_wanted` to each source of the ledger; False if none is known."""
    train, _, ledger = done
    entries = _entries(ledger)
    units = count(train, [entry["rows"] for entry in entries])
    if units is None:
        return False
    weights = sum(entry["weight"] for entry in entries)
    for entry, own in zip(entries, units, strict=True):
        entry[unit] = own
        entry[f"share_{unit}"] = round(own / max(sum(units), 1), 4)
        entry["share_wanted"] = round(entry["weight"] / weights, 4)
    return True


def count_bytes(rows: Any, source_rows: list[int], column: str) -> list[int]:
    """UTF-8 bytes of `column` of each source, of rows with the column ROW. source_rows: as for `count_tokens`."""
    import numpy as np
    import pyarrow.compute as pc

    ends, found = np.cumsum(source_rows), np.zeros(len(source_rows), dtype=np.int64)
    for table in rows.select_columns([column, ROW]).with_format("arrow").iter(10_000):
        sizes = pc.binary_length(table[column]).to_numpy()
        np.add.at(found, np.searchsorted(ends, table[ROW].to_numpy(), side="right"), sizes)
    return found.tolist()


def count_tokens(rows: Any, source_rows: list[int], max_length: int | None) -> list[int] | None:
    """Tokens of each source in a prepared training set, with the column ROW.

    A pair has two sequences, each with the prompt and truncated to `max_length`. None if packing has lost the
    boundaries (`wrapped`).
    source_rows: the number of rows of each source, as `number_rows` counted them.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    ends, tokens = np.cumsum(source_rows), np.zeros(len(source_rows), dtype=np.int64)

    def lengths(table: Any, column: str) -> Any:
        return pc.list_value_length(table[column]).to_numpy()

    for table in rows.with_format("arrow").iter(10_000):
        numbers = table[ROW]
        if not pa.types.is_integer(numbers.type):
            if "seq_lengths" not in table.column_names:
                return None
            numbers, found = pc.list_flatten(numbers), pc.list_flatten(table["seq_lengths"]).to_numpy()
        elif replies := [column for column in REPLIES if column in table.column_names]:
            prompt = lengths(table, "prompt_ids") if "prompt_ids" in table.column_names else 0
            each = [prompt + lengths(table, column) for column in replies]
            found = sum(each if max_length is None else [np.minimum(n, max_length) for n in each])
        else:
            found = lengths(table, "input_ids")
        np.add.at(tokens, np.searchsorted(ends, numbers.to_numpy(), side="right"), found)
    return tokens.tolist()


def find_in_weights(sources: list[dict]) -> list[Finding]:
    """weight-missed and weight-leaves-out. sources: of the ledger, with their tokens or bytes counted."""
    entries = [entry for entry in sources if "weight" in entry]
    if not entries:
        return []
    return [*_find_missed(entries), *_find_left_out(entries)]


def _find_missed(entries: list[dict]) -> list[Finding]:
    """A warning about the source whose share is furthest from its weight, for its size."""
    counted = [entry for entry in entries if "share_wanted" in entry]
    missed = [entry for entry in counted if _missed(entry) > REPORTED]
    if not missed:
        return []
    worst = max(missed, key=lambda entry: _missed(entry) / max(entry["share_wanted"], 1e-4))
    unit = "tokens" if "share_tokens" in worst else "bytes"
    return [
        Finding.warning(
            "weight-missed",
            f"{_share(worst):.1%} of the training {unit}, where its weight asks for "
            f"{worst['share_wanted']:.1%}; its rows in the mix: {worst['rows_chosen']:,}",
            "few or uneven rows cannot be divided finely: add rows to the smallest source, or raise "
            "data.max_repetition",
            worst["path"],
        )
    ]


def _find_left_out(entries: list[dict]) -> list[Finding]:
    """A warning if the weights leave out more than half of the text."""
    read = sum(entry["characters"] for entry in entries)
    used = sum(min(entry["epochs"], 1) * entry["characters"] for entry in entries) / max(read, 1)
    if used >= 0.5:
        return []
    passes = [max(entry["characters"], 1) / entry["weight_in_characters"] for entry in entries]
    repetition, scarce = math.ceil(max(passes) / min(passes)), entries[passes.index(min(passes))]
    return [
        Finding.warning(
            "weight-leaves-out",
            f"the weights use {used:.0%} of the text: this source is too small for its share",
            f"lower its weight, or repeat it: `data.max_repetition: {repetition}` uses all rows",
            scarce["path"],
        )
    ]
