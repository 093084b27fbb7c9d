"""The same rows in every optimizer step, on any number of processes and at any accumulation.

The sampler of an epoch is seeded, and its numbers are distributed in turn: `global_batch_size` of them make a
step, whichever process computes it. In upstream, the last batch of an epoch and the grouping of rows by
length depend on the layout; here they do not. Torch is imported inside functions only.
"""

from collections.abc import Iterator
from typing import Any


class WholeBatches:
    """The numbers of a sampler, in whole global batches; the remainder is dropped, completed or left.

    Upstream drops and completes by the rows of one process: an epoch would depend on the number of processes.
    Completing repeats the epoch's first rows, as accelerate does on several processes.
    """

    def __init__(self, sampler: Any, rows: int, rest: str):
        self.sampler, self.rows, self.rest = sampler, rows, rest

    def __len__(self) -> int:
        size = len(self.sampler)
        over = size % self.rows
        if not over or self.rest == "left":
            return size
        return size - over if self.rest == "dropped" else size - over + self.rows

    def __iter__(self) -> Iterator[int]:
        wanted, first = len(self), []
        for number in self.sampler:
            if wanted == 0:
                return
            wanted -= 1
            if len(first) < self.rows:
                first.append(number)
            yield number
        while wanted > 0:  # the whole set may be smaller than a batch
            yield from first[:wanted]
            wanted -= len(first)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


def keep_order(trainer: Any, rows: int) -> None:
    """Give `trainer` the training batches of a single process with `rows` rows per batch."""
    from accelerate.data_loader import DataLoaderShard

    make, rest = trainer.get_train_dataloader, what_happens_to_the_rest(trainer)

    def get_train_dataloader():
        loader = make()
        batches = innermost(loader)
        if batches is not None:
            sampler = by_global_length(batches.sampler, rows, trainer.args)
            batches.sampler = WholeBatches(sampler, rows, rest)
            if isinstance(loader, DataLoaderShard):
                # Otherwise accelerate keeps only as many measurements of the processes as rows are left over.
                loader._drop_last = True
        return loader

    trainer.get_train_dataloader = get_train_dataloader
    if rest == "left":
        ignore_repeats(trainer)


def what_happens_to_the_rest(trainer: Any) -> str:
    """`dropped`, `left` (a loss over tokens can leave out repeated rows) or `completed`."""
    if trainer.args.dataloader_drop_last:
        return "dropped"
    over_tokens = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
    return "left" if over_tokens and not getattr(trainer, "padding_free", False) else "completed"


def innermost(loader: Any) -> Any:
    """The batch sampler that contains the sampler; None for a stream, or batches of different sizes."""
    batches = getattr(loader, "batch_sampler", None)
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    return batches if getattr(batches, "sampler", None) is not None else None


def by_global_length(sampler: Any, rows: int, args: Any) -> Any:
    """Group by length within multiples of the global batch, with a separate seed.

    Upstream groups by the rows of one process and uses the random generator of each process. After different
    batches their orders would differ: some rows would be trained on twice and others never.
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    if not isinstance(sampler, LengthGroupedSampler):
        return sampler
    seed = args.seed if args.data_seed is None else args.data_seed
    sampler.batch_size, sampler.generator = rows, torch.Generator()
    sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(seed + epoch)
    return sampler


class Remembering:
    """A sampler that stores the numbers it yields in a list, which is cleared at each new pass."""

    def __init__(self, sampler, numbers: list[int]):
        self.sampler, self.numbers = sampler, numbers

    def __iter__(self):
        self.numbers.clear()
        for number in self.sampler:
            self.numbers.append(number)
            yield number

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str):
        return getattr(self.sampler, name)


def ignore_repeats(trainer: Any) -> None:
    """Leave out of the loss the rows that accelerate repeats to give every process a last batch."""
    gather = trainer.get_batch_samples

    def get_batch_samples(iterator, count, device):
        batches, items = gather(iterator, count, device)
        shard = getattr(trainer.callback_handler.train_dataloader, "batch_sampler", None)
        processes = getattr(shard, "num_processes", 1)
        if processes == 1 or not batches or not trainer.accelerator.gradient_state.end_of_dataloader:
            return batches, items
        size = innermost(trainer.callback_handler.train_dataloader).batch_size
        last = (len(shard) - 1) * processes + shard.process_index
        real = min(max(len(trainer.train_dataset) - last * size, 0), size)
        # view: one row per line, also for flash attention, where all rows are in one line.
        batches[-1]["labels"].view(size, -1)[real:] = -100
        return batches, trainer._get_num_items_in_batch(batches, device)

    trainer.get_batch_samples = get_batch_samples
