"""Small forward passes of a built trainer's model that do not affect the run that follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer


@contextmanager
def no_trace(trainer: Trainer) -> Iterator[None]:
    """Inside, random numbers may be drawn and models run in eval mode; the state is restored afterwards."""
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    wrapped = getattr(trainer, "model_wrapped", None)  # DeepSpeed's engine has a separate mode
    modules = [m for m in (wrapped, trainer.model, getattr(trainer, "ref_model", None)) if m is not None]
    modes = [(module, part, part.training) for module in modules for part in module.modules()]
    metrics = getattr(trainer, "_metrics", None)
    kept = {mode: dict(values) for mode, values in metrics.items()} if metrics is not None else None
    try:
        with torch.random.fork_rng(), torch.no_grad():
            for module in modules:
                module.eval()
            yield
    finally:
        for _, part, training in modes:
            part.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])
        if kept is not None:  # TRL averages the metrics that its losses store over the steps of one log entry
            for mode, values in kept.items():
                metrics[mode].clear()
                metrics[mode].update(values)


def can_run(model: PreTrainedModel) -> bool:
    """Whether a model that is not yet prepared for training can run: all weights are here and unsharded.

    A forward over ZeRO-3's gathered shards, outside of its engine, makes the later training fail or hang.
    """
    return not any(p.device.type == "meta" or hasattr(p, "ds_id") for p in model.parameters())


@contextmanager
def prepared_model(trainer: Trainer) -> Iterator[Any]:
    """The object to call for a forward of the prepared policy: without FSDP or ZeRO-3, the bare model.

    With them, it is the wrapper or engine, which fetches the shards; for PPO, whose engine contains two
    models, the policy with its weights gathered, as for a rollout.
    """
    model = language_model(trainer)
    if getattr(trainer, "is_fsdp_enabled", False):
        yield trainer.model_wrapped  # FSDP2 shards the model itself: this is the model
    elif not any(hasattr(p, "ds_id") for p in model.parameters()):
        yield model
    elif not hasattr(trainer, "reward_model"):
        yield trainer.model_wrapped
    else:
        from trl.models.utils import unwrap_model_for_generation

        gather = trainer.args.ds3_gather_for_generation
        with unwrap_model_for_generation(trainer.model, trainer.accelerator, gather) as gathered:
            yield gathered.policy


def language_model(trainer: Trainer) -> Any:
    """The policy of a built trainer: its model, or the policy of PPO's pair of models."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return getattr(model, "policy", model)


def mean_log_probability(model: PreTrainedModel, ids: Sequence[int]) -> float:
    """Mean log-probability of ids[1:] under a causal LM, in nats per token, each given the ids before it."""
    return mean_of(logits(model, ids), ids)


def mean_of(found, ids: Sequence[int]) -> float:
    """The same, from logits [tokens, vocabulary]."""
    import torch

    wanted = torch.tensor(ids[1:], device=found.device)[:, None]
    return found[:-1].float().log_softmax(-1).gather(-1, wanted).mean().item()


def mean_log_probability_by_loss(model: PreTrainedModel, ids: Sequence[int]) -> tuple[float, Any]:
    """(the same from the model's loss, its logits or None), for ZeRO-3: its engine must run as in training.

    TRL's chunked loss never calls the output head, and DeepSpeed's order of fetches must not change.
    """
    import torch

    inputs = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with torch.no_grad():
        output = model(input_ids=inputs, labels=inputs, use_cache=False)
    return -output.loss.item(), None if output.logits is None else output.logits[0]


def logits(model: PreTrainedModel, ids: Sequence[int]):
    """Logits of `model` for `ids`: [tokens, vocabulary] of a causal LM, [1] (the score) of a reward model."""
    import torch

    inputs = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with torch.no_grad():
        return model(input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False).logits[0]


def row_ids(row: dict[str, Any]) -> list[int]:
    """The tokens of one row of a built dataset: a text, a prompt with its (chosen) reply, or a prompt."""
    if "input_ids" in row:
        return list(row["input_ids"])
    reply = next((row[key] for key in ("chosen_ids", "completion_ids") if key in row), [])
    return [*row.get("prompt_ids", []), *reply]
