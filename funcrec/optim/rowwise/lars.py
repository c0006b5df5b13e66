"""Row rule with layer-wise adaptive rates: LARS, where a row is the layer."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.optim.checks import finite_non_negative, fraction, positive
from funcrec.optim.rowwise.rule import RowRule, Slot, Slots
from funcrec.optim.schedules import Schedule


def lars_sgd(
    learning_rate: float | Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    eta: float = 0.001,
    max_gradient: float | None = None,
) -> RowRule:
    """``r = lr·η·‖w‖/(‖g‖ + λ‖w‖)``; ``m ← μm + r·(g + λw)``; ``w ← w - m``, with the norms of each row.

    Where ``‖g‖ + λ‖w‖ = 0`` the rate r is 0 (FBGEMM's 0/0 is NaN). A row of zeros has rate 0, so it moves by its
    momentum only, as in FBGEMM.

    Args:
        learning_rate: a number or a schedule.
        momentum: μ in [0, 1).
        weight_decay: λ.
        eta: η, the trust coefficient.
        max_gradient: see :class:`RowRule`.

    Raises:
        ConfigError: a number outside its range.

    Reference: You, Gitman & Ginsburg 2017, algorithm 1; FBGEMM's ``LARS_SGD``.
    """
    finite_non_negative("rowwise.lars_sgd", learning_rate=learning_rate, weight_decay=weight_decay, eta=eta)
    fraction("rowwise.lars_sgd", momentum=momentum)
    positive("rowwise.lars_sgd", max_gradient=max_gradient)

    def update(w: Tensor, g: Tensor, slots: Slots, step: int, lr: float) -> tuple[Tensor, Slots]:
        del step
        norm_w = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
        whole = torch.linalg.vector_norm(g, dim=-1, keepdim=True) + weight_decay * norm_w
        usable = whole > 0
        ratio = torch.where(usable, norm_w / torch.where(usable, whole, torch.ones_like(whole)), 0.0)
        mu = momentum * slots["mu"] + lr * eta * ratio * (g + weight_decay * w)
        return w - mu, {"mu": mu}

    return RowRule("lars_sgd", lambda dim: {"mu": Slot((dim,))}, update, learning_rate, max_gradient)
