"""LAMB: Adam directions with a trust ratio for each leaf."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.optim import each
from funcrec.optim.adam import adam_ratio, check_adam, init_moments
from funcrec.optim.base import Optimizer
from funcrec.optim.checks import finite_non_negative
from funcrec.optim.rule import Slots, from_rule
from funcrec.optim.schedules import Schedule


def lamb(
    learning_rate: float | Schedule,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    *,
    weight_decay: float = 0.0,
    batch_dims: int = 0,
) -> Optimizer:
    """``r = m̂/(√v̂ + ε) + λw``; ``w ← w - lr·(‖w‖/‖r‖)·r`` with the norms of a whole leaf.

    The ratio is 1 where ``‖w‖`` or ``‖r‖`` is 0, so a leaf of zeros can leave zero.

    Args:
        learning_rate: a number or a schedule.
        betas: ``(β₁, β₂)`` of the moments, each in [0, 1).
        eps: ε.
        weight_decay: λ, inside the trust ratio.
        batch_dims: leading dims of every leaf that count separate members, each with norms of its own: 1 for leaves
            stacked over an ensemble, where 0 would tie the members together.

    Raises:
        ConfigError: a number outside its range.

    Reference: You et al. 2020, algorithm 2, with φ(x) = x.
    """
    check_adam("lamb", learning_rate, betas, eps, weight_decay)
    finite_non_negative("lamb", batch_dims=batch_dims)

    def direction(
        grads: Sequence[Tensor], slots: Slots, leaves: Sequence[Tensor], lr: float, k: int
    ) -> tuple[list[Tensor], Slots]:
        r, slots = adam_ratio(grads, slots, betas, eps, k)
        if weight_decay:
            r = each.add(r, leaves, weight_decay)
        trust = [_trust(_norm(w, batch_dims), _norm(x, batch_dims)) for w, x in zip(leaves, r, strict=True)]
        return [x * (-lr * t) for x, t in zip(r, trust, strict=True)], slots

    return from_rule(learning_rate, init_moments, direction)


def _norm(x: Tensor, batch_dims: int) -> Tensor:
    """Norm over all but the first dims, which stay for broadcasting."""
    lead = list(x.shape[:batch_dims])
    rows = x.reshape([*lead, math.prod(x.shape[batch_dims:])])  # dim=() of vector_norm would mean all dims
    return torch.linalg.vector_norm(rows, dim=-1).reshape(lead + [1] * (x.dim() - batch_dims))


def _trust(w: Tensor, r: Tensor) -> Tensor:
    usable = (w > 0) & (r > 0)
    return torch.where(usable, w / torch.where(usable, r, torch.ones_like(r)), torch.ones_like(r))
