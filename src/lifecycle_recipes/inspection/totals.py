"""Totals of a training run: rows, tokens, lengths, end-of-turn tokens and steps of the built trainer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..doctor.trainer_level.step_count import is_ppo, planned_steps
from .sequences import Sequence, all_batches, first_batches, sequences
from .trace import Trace

if TYPE_CHECKING:
    from transformers import Trainer

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
PADDED_BATCHES = 8  # batches whose padding is measured


@dataclass
class SourceTotals:
    """rows: of the source. trained: those in the training set. tokens: of the latter, in one epoch.

    wanted: the share of the tokens that the source's weight asks for. epochs: passes over its rows.
    """

    path: str
    rows: int
    trained: int = 0
    tokens: int = 0
    wanted: float | None = None
    epochs: float = 1.0


@dataclass
class Totals:
    """Counts over one epoch of the training set, through the trainer's own collator.

    rows: of the trainer's dataset (a packed row contains several documents). trained: supervised tokens.
    truncated: documents, prompts or replies that lost tokens; cut_tokens: how many. lengths: title -> sorted
    token counts. ends: id of an end-of-turn token -> number of `sequences` in which it is supervised.
    gone: numbers of the source rows that are not in the training set. pieces: number of a source row -> tokens of
    each of its pieces in the set. whole: number -> tokens before truncation, of the truncated rows.
    """

    rows: int = 0
    documents: int = 0
    tokens: int = 0
    trained: int = 0
    truncated: int = 0
    cut_tokens: int = 0
    sequences: int = 0
    ends: Counter = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    sources: list[SourceTotals] = field(default_factory=list)
    unattributed: int = 0
    gone: list[int] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    pieces: dict[int, list[int]] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)


def count(trainer: Trainer, trace: Trace, ends: set[int]) -> Totals:
    """Totals over every training row. ends: the token ids that end a turn or a document."""
    read = [entry for entry in trace.ledger["sources"] if entry["use"] == "train"]
    totals = Totals(sources=[_source(entry) for entry in read])
    booked, full = set(), []
    for rows, batch in all_batches(trainer):
        held = trace.origins.numbers_of(totals.rows, totals.rows + len(rows))
        totals.rows += len(rows)
        for row, numbers, parts in zip(rows, held, sequences(trainer, rows, batch), strict=True):
            if "label" in row:
                label = "good" if row["label"] else "bad"
                totals.labels[label] = totals.labels.get(label, 0) + 1
            parts = [part for part in parts if not part.extra]
            for part in parts:
                _add(totals, part, ends)
            totals.truncated += any(part.cut for part in parts)
            full += _attribute(totals, trace, numbers, parts, booked)
    for lengths in totals.lengths.values():
        lengths.sort()
    _add_cut(totals, trace, full)
    totals.gone = trace.missing()
    return totals


def _source(entry: dict) -> SourceTotals:
    """A source of the ledger, of which nothing is counted yet."""
    weighted = {"wanted": entry.get("share_wanted"), "epochs": entry.get("epochs", 1.0)}
    return SourceTotals(entry["path"], entry["rows"], **weighted)


def documents(sequence: Sequence) -> list[tuple[int, int]]:
    """(start, end) of every document of a sequence."""
    return list(zip(sequence.starts, [*sequence.starts[1:], len(sequence.ids)], strict=True))


def _add(totals: Totals, sequence: Sequence, ends: set[int]) -> None:
    totals.tokens += len(sequence.ids)
    totals.trained += sum(sequence.trained)
    totals.cut_tokens += len(sequence.cut)
    for start, end in documents(sequence):
        totals.documents += 1
        totals.lengths.setdefault(sequence.title, []).append(end - start)
        trained = [i for i, t in zip(sequence.ids[start:end], sequence.trained[start:end], strict=True) if t]
        last = trained[-1:] or (sequence.ids[end - 1 : end] if sequence.scored else [])
        if last:
            totals.sequences += 1
            # The template may write a line break after the end-of-turn token.
            totals.ends.update([i for i in trained[-2:] or last if i in ends][-1:])


def _attribute(totals: Totals, trace: Trace, numbers: list[int], parts: list[Sequence], booked: set):
    """Add the row's tokens to the source of each document; return the documents that may be truncated."""
    if not trace.documents_end:
        totals.unattributed += len(documents(parts[0]))
        return []
    sizes = [b - a for a, b in documents(parts[0])] if len(numbers) > 1 else [sum(len(p.ids) for p in parts)]
    for number, size in zip(numbers, sizes, strict=True):
        source = totals.sources[trace.origins.source(number)]
        source.tokens += size
        source.trained += number not in booked
        totals.pieces.setdefault(number, []).append(size)
        booked.add(number)
    return [number for number, size in zip(numbers, sizes, strict=True) if trace.may_be_cut(size)]


def _add_cut(totals: Totals, trace: Trace, full: list[int]) -> None:
    """Count the tokens that the documents `full` lost when they were truncated to train.max_length."""
    limit = trace.trainer.args.max_length if full else 0
    totals.whole = {number: len(document) for number, (document,) in trace.whole(full).items()}
    lost = [tokens - limit for tokens in totals.whole.values()]
    totals.truncated += sum(tokens > 0 for tokens in lost)
    totals.cut_tokens += sum(lost)


def quantiles(lengths: list[int]) -> list[int]:
    """The QUANTILES of sorted lengths."""
    return [lengths[round(q * (len(lengths) - 1))] for q in QUANTILES]


def steps(trainer: Trainer, declared: int | None = None) -> dict[str, float]:
    """{steps, epochs, global_batch, declared, processes, padding} of training with this process's settings.

    padding: share of padding in the first batches. For PPO a step is one update on `global_batch` replies.
    """
    args = trainer.args
    if is_ppo(trainer):
        total, batch = args.num_total_batches, args.batch_size
    else:
        total, batch = planned_steps(trainer, declared)
    tokens = padding = 0
    for number, (rows, made, _) in enumerate(first_batches(trainer), start=1):
        for parts in sequences(trainer, rows, made):
            tokens += sum(len(part.ids) for part in parts)
            padding += sum(part.padding for part in parts)
        if number == PADDED_BATCHES:
            break
    return {
        "steps": total,
        "epochs": total * batch / len(trainer.train_dataset),
        "global_batch": batch,
        "declared": declared is not None,
        "processes": trainer.accelerator.num_processes,
        "padding": padding / max(tokens + padding, 1),
    }
