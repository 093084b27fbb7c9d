"""The input of the loss for each row, read from the built trainer's batches, after its own collator."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..doctor.trainer_level.step_count import is_ppo
from ..training.batch_order import Remembering, innermost

if TYPE_CHECKING:
    from transformers import Trainer


@dataclass
class Sequence:
    """One token sequence as the model receives it, without padding.

    trained: per token, whether it is supervised. starts: positions at which documents start, 0 included.
    padding: padding tokens of its row in this batch. cut: truncated ids, removed at `cut_at`, the front or
    the back. scored: a reward is read at the last token. extra: a forward pass without a gradient (KTO's
    estimate of the KL).
    """

    title: str
    ids: list[int]
    trained: list[bool]
    starts: list[int] = field(default_factory=lambda: [0])
    padding: int = 0
    cut: list[int] = field(default_factory=list)
    cut_at: str = "back"
    scored: bool = False
    extra: bool = False


def recorded(collator):
    """The trainer's collator, also inside a RecordingCollator."""
    return collator.collator if isinstance(collator, RecordingCollator) else collator


class RecordingCollator:
    """The trainer's collator; keeps the rows of each batch, the oldest first.

    A queue, because accelerate's dataloader collates one batch ahead of the one that it returns.
    """

    def __init__(self, collator):
        self.collator = collator
        self.rows: deque[list[dict[str, Any]]] = deque()

    def __call__(self, rows):
        # A collator may modify its rows.
        self.rows.append([dict(row) for row in rows])
        return self.collator(rows)


def first_batches(trainer: Trainer) -> Iterator[tuple[list[dict], dict, list[int]]]:
    """(rows, batch, the rows' numbers in the training set) of the trainer's dataloader, in its order."""
    import torch

    # PPO's order depends on the state of torch's generator, so that state is restored.
    with torch.random.fork_rng(devices=[]), _recording(trainer) as (loader, recorder):
        batches, numbers, first = innermost(loader), [], 0
        sampler, batches.sampler = batches.sampler, Remembering(batches.sampler, numbers)
        try:
            for batch in loader:
                rows = recorder.rows.popleft()
                yield rows, batch, numbers[first : first + len(rows)]
                first += len(rows)
        finally:
            batches.sampler = sampler  # PPO trains with the same loader


@contextmanager
def _recording(trainer: Trainer):
    """The training dataloader with a RecordingCollator, in this process."""
    args = trainer.args
    if is_ppo(trainer):  # its dataloader was made with the trainer
        loader = trainer.dataloader
        base = getattr(loader, "base_dataloader", loader)  # accelerate's is a wrapper
        recorder = RecordingCollator(base.collate_fn)
        base.collate_fn = recorder
        try:
            yield loader, recorder
        finally:
            base.collate_fn = recorder.collator
        return
    recorder = RecordingCollator(trainer.data_collator)
    # No workers: they are other processes, whose batches could not be recorded here.
    single = {
        "dataloader_num_workers": 0,
        "dataloader_prefetch_factor": None,
        "dataloader_persistent_workers": False,
    }
    before = {name: getattr(args, name) for name in single}
    trainer.data_collator = recorder
    try:
        for name, value in single.items():
            setattr(args, name, value)
        yield trainer.get_train_dataloader(), recorder
    finally:
        trainer.data_collator = recorder.collator
        for name, value in before.items():
            setattr(args, name, value)


def all_batches(trainer: Trainer, size: int = 64) -> Iterator[tuple[list[dict], dict]]:
    """(rows, batch) of all training rows in the order of the dataset, after the trainer's collator."""
    dataset = model_columns(trainer, trainer.train_dataset)
    for columns in dataset.iter(size):
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        yield rows, trainer.data_collator([dict(row) for row in rows])


def model_columns(trainer: Trainer, dataset):
    """`dataset` with only the columns that the collator receives."""
    if is_ppo(trainer):  # it removes no column
        return dataset
    return trainer._remove_unused_columns(dataset, description="training")


def sequences(trainer: Trainer, rows: list[dict], batch: dict) -> list[list[Sequence]]:
    """The sequences of each row of a batch: one, or chosen and rejected, or a reply and KTO's KL sequence."""
    count = len(rows)
    if "labels" in batch:
        return [[sequence] for sequence in _documents(trainer, rows, batch)]
    if "chosen_ids" in rows[0]:
        found = [
            _replies(batch, side * count, title, rows, f"{title}_ids")
            for side, title in enumerate(("chosen", "rejected"))
        ]
    elif "completion_ids" in rows[0]:
        found = [_replies(batch, 0, "reply", rows, "completion_ids")]
        if "KL_input_ids" in batch:
            twin = {k.removeprefix("KL_"): v for k, v in batch.items() if k.startswith("KL_")}
            found.append(_replies(twin, 0, "for the KL", rows, "KL_completion_ids", extra=True))
    else:
        found = [_replies(batch, 0, "prompt", rows, None)]
    return [list(parts) for parts in zip(*found, strict=True)]


def _documents(trainer: Trainer, rows: list[dict], batch: dict) -> Iterator[Sequence]:
    """Sequences of a language-modelling batch: one batch row each, or all flattened into one batch row."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    positions = batch["position_ids"].tolist() if "position_ids" in batch else None
    flat, begin = len(ids) != len(rows), 0
    # Our flattened blocks keep their padding; upstream's flattened rows have none.
    stride = getattr(recorded(trainer.data_collator), "block_size", None)
    for i, row in enumerate(rows):
        line, begin = (0, begin) if flat else (i, 0)
        end = begin + len(row["input_ids"])
        # No position predicts the first token of a batch row, so it is not supervised, whatever its label.
        trained = [label != -100 and begin + k > 0 for k, label in enumerate(labels[line][begin:end])]
        if positions:
            starts = [k for k, position in enumerate(positions[line][begin:end]) if position == 0]
        else:
            starts = document_starts(row)
        padded = begin + (stride or end - begin) if flat else len(ids[line])
        yield Sequence("", ids[line][begin:end], trained, starts, padded - end)
        begin = padded


def document_starts(row: dict) -> list[int]:
    """Start positions of the documents of a packed row; [0] if it contains one."""
    starts = [0]
    for length in (row.get("seq_lengths") or [])[:-1]:
        starts.append(starts[-1] + length)
    return starts


def _replies(batch, first: int, title: str, rows: list[dict], column: str | None, extra: bool = False):
    """The sequences of `rows`, from row `first` of the batch on, with their truncated tokens."""
    for i, row in enumerate(rows):
        mask = batch["attention_mask"][first + i].bool()
        ids = batch["input_ids"][first + i][mask].tolist()
        if "completion_mask" in batch:
            trained = [bool(bit) and k > 0 for k, bit in enumerate(batch["completion_mask"][first + i][mask])]
        else:
            trained = [False] * len(ids)
        sequence = Sequence(title, ids, [t and not extra for t in trained], extra=extra)
        sequence.padding = len(mask) - len(ids)
        sequence.scored = "completion_mask" not in batch and column is not None
        if column and "prompt_ids" in row:
            whole = [*row["prompt_ids"], *row[column]]
            sequence.cut, sequence.cut_at = cut_of(whole, ids)
        yield sequence


def cut_of(whole: list[int], kept: list[int]) -> tuple[list[int], str]:
    """The part of `whole` that is not in `kept`, and its side; empty if `kept` is neither end of `whole`."""
    if len(whole) <= len(kept):
        return [], "back"
    if whole[: len(kept)] == kept:
        return whole[len(kept) :], "back"
    if whole[-len(kept) :] == kept:
        return whole[: -len(kept)], "front"
    return [], "back"
