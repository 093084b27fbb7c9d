"""KTO whose KL does not depend on the layout: estimated over the global batch, and over all held-out rows.

Upstream (trl/trainer/kto_trainer.py) pairs each prompt with its neighbour's reply within the micro-batch of
one process, and computes the KL in a row's loss from the micro-batches that the processes run at the same
time: 1 x 8 rows, 8 x 1 and 2 x 4 are three different losses. In an evaluation, each batch of the processes
has its own KL.
"""


def kto_trainer(global_batch_size: int | None):
    """A KTOTrainer for rows paired within the global batch; upstream's class if no global batch is declared.

    The KL forwards of an accumulated step or an evaluation run before the others; their number is unchanged.
    """
    import torch
    from trl import KTOTrainer
    from trl.models.utils import disable_gradient_checkpointing
    from trl.trainer.utils import use_adapter

    from .eval_loss import is_new

    if global_batch_size is None:
        return KTOTrainer

    class GlobalKTOTrainer(KTOTrainer):
        # (policy, reference): mean log-probabilities of the KL replies, instead of those of each micro-batch.
        _means = None
        _pending: tuple = ()

        def get_batch_samples(self, epoch_iterator, num_batches, device):
            batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
            self._means = None
            if self.calculate_KL and len(batches) > 1:
                self.model.train()  # as in the next step
                self._means = self._mean_log_probabilities(self.model_wrapped, [(b, 1.0) for b in batches])
            return batches, items

        def evaluation_loop(self, dataloader, *args, **kwargs):
            # A model not yet prepared for its layout cannot run here; upstream prepares it in its loop.
            if not self.calculate_KL or not self.accelerator._models:
                return super().evaluation_loop(dataloader, *args, **kwargs)
            self.model.eval()
            model = self._wrap_model(self.model, training=False)
            # A repeated row is read, too: under ZeRO-3 every process must run the forward.
            counted = ((batch, float(is_new(self, dataloader))) for batch in dataloader)
            before, self._means = self._means, self._mean_log_probabilities(model, counted, across=True)
            try:
                return super().evaluation_loop(dataloader, *args, **kwargs)
            finally:
                self._means = before

        def _mean_log_probabilities(self, model, counted, across: bool = False):
            """(policy, reference) of the KL replies in (batch, weight); across: over all processes."""
            sums = torch.zeros(3, device=self.accelerator.device)
            for batch, weight in counted:
                batch = self._prepare_inputs(batch)
                policy = self._compute_kl_logps(model, batch)
                reference = self._reference_log_probabilities(batch)
                parts = (policy, reference, torch.ones_like(policy))
                sums += weight * torch.stack([part.float().sum() for part in parts])
            if across:
                sums = self.accelerator.reduce(sums, "sum")
            return sums[0] / sums[2], sums[1] / sums[2]

        def _reference_log_probabilities(self, batch):
            if self.precompute_ref_logps:
                return batch["ref_KL_logps"]
            with (
                torch.no_grad(),
                disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            ):
                if self.ref_model is not None:
                    return self._compute_kl_logps(self.ref_model, batch)
                below = self.accelerator.unwrap_model(self.model)
                with use_adapter(below, adapter_name="ref" if "ref" in below.peft_config else None):
                    return self._compute_kl_logps(self.model, batch)

        def compute_loss(self, model, inputs, *args, **kwargs):
            self._pending = self._means or ()
            if self._pending and "ref_KL_logps" in inputs:
                inputs["ref_KL_logps"] = torch.full_like(inputs["ref_KL_logps"], self._means[1])
            try:
                return super().compute_loss(model, inputs, *args, **kwargs)
            finally:
                self._pending = ()

        def _compute_kl_logps(self, model, batch):
            """First for the policy, then for the reference: the order of upstream's calls."""
            if not self._pending:
                return super()._compute_kl_logps(model, batch)
            mean, *rest = self._pending
            self._pending = tuple(rest)
            return mean.expand(len(batch["label"]))

    return GlobalKTOTrainer
