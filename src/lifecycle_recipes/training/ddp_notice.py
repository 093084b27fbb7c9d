"""Hides a warning of DDP about its first step, which users cannot act on."""

from transformers import TrainerCallback

from ..quiet import stderr_without

NOTICE = b"find_unused_parameters=True was specified in DDP constructor, but did not find any"


class HideNotice(TrainerCallback):
    """Hides torch's warning, once a process, that DDP found no unused parameters.

    transformers enables that search where activations are not checkpointed (trainer.py,
    _build_accelerator_args). It stays: without it, a model that leaves parameters out of a step (a tower of a
    multimodal one, an expert) ends at the next, its gradients until then not averaged.
    The warning comes from C++ (reducer.cpp), where no filter of Python's sees it, as a forward pass ends.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        from torch.nn.parallel import DistributedDataParallel

        model = getattr(self.trainer, "model_wrapped", None)
        if isinstance(model, DistributedDataParallel) and model.find_unused_parameters:
            hide_first(model)


def hide_first(model) -> None:
    """Hide the notice of the first forward pass of a DDP with gradients."""
    import torch

    finish = model._post_forward

    def quietly(output):
        if not torch.is_grad_enabled():
            return finish(output)
        del model._post_forward  # the class's own from now on
        with stderr_without(NOTICE):
            return finish(output)

    model._post_forward = quietly
