"""Weights with a NaN or an infinity, under every sharding. Torch inside functions only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def not_finite(parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the `named_parameters` with a NaN or infinity in the part that this rank holds.

    Integers have neither; of 8-bit floats and on the meta device nothing is known.
    """
    import torch

    parts = [(name, local(parameter)) for name, parameter in parameters]
    known = [(n, p) for n, p in parts if p.is_floating_point() and p.itemsize > 1 and not p.is_meta]
    return [name for name, part in known if not torch.isfinite(part).all()]


def local(parameter: Tensor) -> Any:
    """The part of a parameter on this rank: its ZeRO-3 or FSDP shard, else all of it."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.data
    return parameter.to_local().detach() if hasattr(parameter, "to_local") else parameter.data
