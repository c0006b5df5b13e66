"""Gradient clipping, by the global norm or by value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.optim import each
from funcrec.optim.base import State, Transform
from funcrec.optim.checks import positive


def global_norm(tensors: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
    """``(Σ |x|^p)^(1/p)`` over all entries of all tensors, a scalar of at least float32; 0 for no tensors.

    Tensors of another device than the first one's are reduced where they are.
    """
    if not tensors:
        return torch.zeros(())
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
    if each.transforming():
        norms = [torch.linalg.vector_norm(x, norm_type, dtype=dtype) for x in tensors]
    else:
        norms = list(torch._foreach_norm(list(tensors), norm_type, dtype=dtype))
    return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]), norm_type)


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """``min(1, max_norm / (norm + 1e-6))``: what to multiply every gradient by, as ``clip_grad_norm_`` does.

    Use it when the norm must also cover gradients that no optimizer here sees, such as those of embedding rows. An
    infinite norm gives 0 and a NaN norm NaN: entries that are not finite end as NaN, never as a plausible number.
    """
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)


def clip_by_global_norm(max_norm: float, norm_type: float = 2.0) -> Transform:
    """Multiply all gradients by :func:`clip_factor` of their common :func:`global_norm`.

    On leaves stacked over an ensemble the norm is that of all members together: clip before stacking, or under
    ``vmap``, for a norm of each.

    Raises:
        ConfigError: ``max_norm`` or ``norm_type`` is not positive.
    """
    positive("clip_by_global_norm", max_norm=max_norm, norm_type=norm_type)

    def update(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[list[Tensor], State]:
        del leaves
        factor = clip_factor(global_norm(grads, norm_type), max_norm)
        if len({g.device for g in grads}) > 1:
            return [g * factor.to(g.device) for g in grads], state
        return each.mul(grads, factor), state

    return Transform(stateless, update)


def clip_by_value(max_value: float) -> Transform:
    """Clamp every entry of every gradient to ``[-max_value, max_value]``.

    Raises:
        ConfigError: ``max_value`` is not a positive number.
    """
    if not 0.0 < max_value < math.inf:
        fail(ConfigError, "clip_by_value: max_value", got=max_value, expected="a finite number > 0")

    def update(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[list[Tensor], State]:
        del leaves
        return [g.clamp(-max_value, max_value) for g in grads], state

    return Transform(stateless, update)


def stateless(leaves: Sequence[Tensor], paths: Sequence[str]) -> State:
    """The ``init`` of a transform without state."""
    del leaves, paths
    return {}
