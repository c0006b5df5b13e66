"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.optim import each
from funcrec.optim.base import Optimizer
from funcrec.optim.checks import finite_non_negative
from funcrec.optim.rule import Slots, from_rule, zeros
from funcrec.optim.schedules import Schedule


def sgd(
    learning_rate: float | Schedule,
    momentum: float = 0.0,
    *,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Optimizer:
    """``g ← g + λw``; ``m ← μm + (1 - τ)g``, on the first step ``m ← g``; ``w ← w - lr·m``, as ``torch.optim.SGD``.

    Args:
        learning_rate: a number or a schedule.
        momentum: μ; with 0 there is no slot.
        dampening: τ.
        nesterov: step along ``g + μm`` instead of ``m``.
        weight_decay: λ of the L2 term added to the gradient.

    Raises:
        ConfigError: a negative number, or Nesterov momentum without momentum or with dampening.

    Reference: Sutskever et al. 2013, eq. 1-4, in the form that scales ``m`` by the current learning rate.
    """
    finite_non_negative(
        "sgd", learning_rate=learning_rate, momentum=momentum, dampening=dampening, weight_decay=weight_decay
    )
    if nesterov and (momentum == 0.0 or dampening != 0.0):
        got = f"momentum {momentum}, dampening {dampening}"
        fail(ConfigError, "sgd: nesterov", got=got, expected="momentum > 0 and no dampening")

    def slots(leaves: Sequence[Tensor]) -> Slots:
        return {"mu": zeros(leaves)} if momentum else {}

    def direction(
        grads: Sequence[Tensor], slots: Slots, leaves: Sequence[Tensor], lr: float, k: int
    ) -> tuple[list[Tensor], Slots]:
        if weight_decay:
            grads = each.add(grads, leaves, weight_decay)
        if not momentum:
            return each.mul(grads, -lr), slots
        mu = each.add(each.mul(slots["mu"], momentum), grads, 1.0 if k == 0 else 1.0 - dampening)
        return each.mul(each.add(grads, mu, momentum) if nesterov else mu, -lr), {"mu": mu}

    def kernel(leaves: list[Tensor], grads: list[Tensor], slots: Slots, lr: float, k: int) -> None:
        torch._fused_sgd_(
            leaves,
            grads,
            slots.get("mu", []),
            weight_decay=weight_decay,
            momentum=momentum,
            lr=lr,
            dampening=dampening,
            nesterov=nesterov,
            maximize=False,
            is_first_step=k == 0 and momentum > 0.0,
        )

    return from_rule(learning_rate, slots, direction, kernel, "_fused_sgd_")
