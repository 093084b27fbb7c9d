"""The held-out loss with every row counted once: the same on any number of processes and for any batch size.

Upstream averages batches and weights them by rows even if the loss is over tokens. It fills the last batches
with repeated rows, which remain in the mean of their batch.
"""

from collections.abc import Iterator
from typing import Any


class Rounds:
    """Batches of row numbers for one of several processes; within a round, all batches have the same size.

    First rounds of `size` rows per process, then one round of fewer, then one of a single row for the
    remainder. So no batch has both new and repeated rows, and only the last round has processes with a
    repeated row. accelerate uses batch_size and num_processes to find how many rows of that round are new.
    """

    batch_size = 1

    def __init__(self, rows: int, size: int, processes: int, process: int):
        self.rows, self.size, self.num_processes, self.process_index = rows, size, processes, process

    def __len__(self) -> int:
        rest = self.rows % (self.size * self.num_processes)
        fewer, single = rest >= self.num_processes, rest % self.num_processes > 0
        return self.rows // (self.size * self.num_processes) + fewer + single

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        while (left := self.rows - start) >= self.num_processes:
            size = min(self.size, left // self.num_processes)
            mine = start + size * self.process_index
            yield list(range(mine, mine + size))
            start += size * self.num_processes
        if left:
            yield [start + self.process_index % left]  # keeps a mean over processes close

    @property
    def ends_in_a_repeat(self) -> bool:
        """Whether this process has no new row in the last round."""
        return self.process_index >= (self.rows % self.num_processes or self.num_processes)


def measure_once(trainer: Any) -> None:
    """Make `eval_loss` of `trainer` the mean over the held-out tokens or rows, each counted once.

    Tokens if the loss is a mean over tokens (pretrain, sft), else rows. TRL's other metrics are weighted by
    the same counts instead of by rounds.
    """
    import torch

    make, step, loop = trainer.get_eval_dataloader, trainer.prediction_step, trainer.evaluation_loop
    over_tokens = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
    parts: list = []  # (loss x count, count) of every round on this process

    def get_eval_dataloader(eval_dataset=None):
        return in_rounds(make(eval_dataset), trainer)

    def prediction_step(model, inputs, *args, **kwargs):
        count = count_new(trainer, inputs, over_tokens)
        found = step(model, inputs, *args, **kwargs)
        if found[0] is not None:
            # The loss of a batch without a counted token or row is 0 / 0.
            parts.append(torch.stack([torch.where(count > 0, found[0].detach() * count, 0.0), count]))
        return found

    def evaluation_loop(dataloader, *args, metric_key_prefix="eval", **kwargs):
        if not isinstance(getattr(dataloader, "batch_sampler", None), Rounds):
            return loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        parts.clear()
        across = trainer.args.average_tokens_across_devices
        trainer.args.average_tokens_across_devices = False  # each process divides by its own count
        try:
            output = loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            trainer.args.average_tokens_across_devices = across
        if parts and f"{metric_key_prefix}_loss" in output.metrics:
            sums = trainer.accelerator.reduce(torch.stack(parts), "sum").cpu().double()
            counts = sums[:, 1]
            output.metrics[f"{metric_key_prefix}_loss"] = (sums[:, 0].sum() / counts.sum()).item()
            for values in getattr(trainer, "_metrics", {}).get("eval", {}).values():
                if len(values) == len(counts):
                    values[:] = [(torch.tensor(values).double() @ counts / counts.sum()).item()]
        return output

    trainer.get_eval_dataloader = get_eval_dataloader
    trainer.prediction_step, trainer.evaluation_loop = prediction_step, evaluation_loop


def in_rounds(loader: Any, trainer: Any) -> Any:
    """The prepared `loader` with its rows in Rounds; unchanged for a stream, or if ranks share their rows."""
    from accelerate.data_loader import DataLoaderShard

    batches = getattr(loader, "batch_sampler", None)
    processes = getattr(batches, "num_processes", 1)
    plain = isinstance(loader, DataLoaderShard) and hasattr(loader.dataset, "__len__")
    if not plain or batches is None or processes != trainer.accelerator.num_processes:
        return loader
    rounds = Rounds(
        len(loader.dataset), trainer.args.eval_batch_size, processes, trainer.accelerator.process_index
    )
    kept = ("collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn", "prefetch_factor")
    kept += ("multiprocessing_context", "persistent_workers")
    options = {name: getattr(loader, name) for name in kept}
    return DataLoaderShard(loader.dataset, device=loader.device, batch_sampler=rounds, **options)


def is_new(trainer: Any, loader: Any) -> bool:
    """False for a batch that only keeps this process in step with the others."""
    rounds = getattr(loader, "batch_sampler", None)
    at_end = trainer.accelerator.gradient_state.end_of_dataloader
    return not (isinstance(rounds, Rounds) and at_end and rounds.ends_in_a_repeat)


def count_new(trainer: Any, inputs: dict[str, Any], over_tokens: bool):
    """A tensor: the number of tokens or rows in the mean loss of this batch; 0 for repeated rows."""
    import torch

    if not is_new(trainer, trainer.callback_handler.eval_dataloader):
        return torch.zeros((), device=trainer.args.device)
    if over_tokens and "labels" in inputs:
        labels = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][..., 1:]
        return (labels != -100).sum().float().to(trainer.args.device)
    # Chosen and rejected are two lines of a batch, so every batch counts twice its rows.
    rows = next(value for value in inputs.values() if torch.is_tensor(value)).shape[0]
    return torch.tensor(float(rows), device=trainer.args.device)
