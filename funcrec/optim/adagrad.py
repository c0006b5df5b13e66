"""Adagrad."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.optim import each
from funcrec.optim.base import Optimizer
from funcrec.optim.checks import finite_non_negative, positive
from funcrec.optim.rule import Slots, count_tensor, from_rule
from funcrec.optim.schedules import Schedule


def adagrad(
    learning_rate: float | Schedule,
    *,
    initial_accumulator: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> Optimizer:
    """``g ← g + λw``; ``h ← h + g²``; ``w ← w - lr·g/(√h + ε)``.

    Args:
        learning_rate: a number or a schedule.
        initial_accumulator: h before the first step.
        eps: ε.
        weight_decay: λ of the L2 term added to the gradient.

    Raises:
        ConfigError: a number outside its range.

    Reference: Duchi, Hazan & Singer 2011, fig. 1, with a diagonal matrix.
    """
    finite_non_negative(
        "adagrad", learning_rate=learning_rate, initial_accumulator=initial_accumulator, weight_decay=weight_decay
    )
    positive("adagrad", eps=eps)

    def slots(leaves: Sequence[Tensor]) -> Slots:
        return {"sum": [torch.full_like(w, initial_accumulator, requires_grad=False) for w in leaves]}

    def direction(
        grads: Sequence[Tensor], slots: Slots, leaves: Sequence[Tensor], lr: float, k: int
    ) -> tuple[list[Tensor], Slots]:
        del k
        if weight_decay:
            grads = each.add(grads, leaves, weight_decay)
        total = each.addcmul(slots["sum"], grads, grads, 1.0)
        return each.mul(each.div(grads, each.add(each.sqrt(total), eps)), -lr), {"sum": total}

    def kernel(leaves: list[Tensor], grads: list[Tensor], slots: Slots, lr: float, k: int) -> None:
        torch._fused_adagrad_(
            leaves,
            grads,
            slots["sum"],
            [count_tensor(k, leaves[0])] * len(leaves),
            lr=lr,
            lr_decay=0.0,
            weight_decay=weight_decay,
            eps=eps,
            maximize=False,
        )

    return from_rule(learning_rate, slots, direction, kernel, "_fused_adagrad_")
