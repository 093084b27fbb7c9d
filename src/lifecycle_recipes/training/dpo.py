"""DPO whose `sft` loss does not depend on the layout: a mean over the tokens of the whole optimizer step.

Upstream (trl/trainer/dpo_trainer.py, loss_type sft) averages over the chosen tokens of each micro-batch, and
then over the micro-batches: a token has more weight in a micro-batch of short replies.
"""


def dpo_trainer(global_batch_size: int | None):
    """A DPOTrainer that weights the `sft` loss of each micro-batch by its number of chosen tokens.

    Without a declared global batch, upstream's class.
    """
    import torch
    from trl import DPOTrainer

    from .eval_loss import is_new

    if global_batch_size is None:
        return DPOTrainer

    class GlobalDPOTrainer(DPOTrainer):
        _shares: tuple = ()  # of the remaining micro-batches in this step
        _tokens_per_row = None  # of the held-out rows, during an evaluation

        def get_batch_samples(self, epoch_iterator, num_batches, device):
            batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
            parts, self._shares = len(batches) * self.accelerator.num_processes, ()
            if parts > 1 and "sft" in self.loss_types:
                tokens = torch.stack([chosen_tokens(batch) for batch in batches]).to(device)
                self._shares = tuple(tokens * parts / self.accelerator.reduce(tokens.sum(), "sum"))
            return batches, items

        def evaluation_loop(self, dataloader, *args, **kwargs):
            if "sft" in self.loss_types:
                sums = torch.zeros(2, device=self.accelerator.device)
                for batch in dataloader:
                    if is_new(self, dataloader):
                        rows = torch.tensor(len(batch["input_ids"]) / 2)
                        sums += torch.stack([chosen_tokens(batch).cpu(), rows]).to(sums.device)
                tokens, rows = self.accelerator.reduce(sums, "sum")
                self._tokens_per_row = tokens / rows
            try:
                return super().evaluation_loop(dataloader, *args, **kwargs)
            finally:
                self._tokens_per_row = None

        def compute_loss(self, model, inputs, *args, **kwargs):
            share, before = 1.0, self.loss_weights
            if self._tokens_per_row is not None:
                share = chosen_tokens(inputs) * 2 / len(inputs["input_ids"]) / self._tokens_per_row
            elif self._shares:
                share, *rest = self._shares
                self._shares = tuple(rest)
            kinds = zip(self.loss_types, before, strict=True)
            self.loss_weights = [weight * share if kind == "sft" else weight for kind, weight in kinds]
            try:
                return super().compute_loss(model, inputs, *args, **kwargs)
            finally:
                self.loss_weights = before

    return GlobalDPOTrainer


def chosen_tokens(batch):
    """Number of chosen tokens in a batch, in its first half; the first token of a row has no loss."""
    mask = batch["completion_mask"]
    return mask[: len(mask) // 2, 1:].sum().float()
