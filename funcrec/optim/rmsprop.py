"""RMSprop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from funcrec.optim import each
from funcrec.optim.base import Optimizer
from funcrec.optim.checks import finite_non_negative, fraction, positive
from funcrec.optim.rule import Slots, from_rule, zeros
from funcrec.optim.schedules import Schedule


def rmsprop(
    learning_rate: float | Schedule,
    alpha: float = 0.99,
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.0,
) -> Optimizer:
    """``g ← g + λw``; ``v ← αv + (1-α)g²``; ``w ← w - lr·g/(√v + ε)``, as ``torch.optim.RMSprop``.

    There is no correction for the start at ``v = 0``: the first step is ``lr·sign(g)/√(1-α)``. The derivative of an
    update with respect to the gradient is NaN where ``v`` is exactly 0, as for every square root.

    Args:
        learning_rate: a number or a schedule.
        alpha: α in [0, 1).
        eps: ε.
        weight_decay: λ of the L2 term added to the gradient.

    Raises:
        ConfigError: a number outside its range.

    Reference: Tieleman & Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning".
    """
    finite_non_negative("rmsprop", learning_rate=learning_rate, weight_decay=weight_decay)
    fraction("rmsprop", alpha=alpha)
    positive("rmsprop", eps=eps)

    def slots(leaves: Sequence[Tensor]) -> Slots:
        return {"nu": zeros(leaves)}

    def direction(
        grads: Sequence[Tensor], slots: Slots, leaves: Sequence[Tensor], lr: float, k: int
    ) -> tuple[list[Tensor], Slots]:
        del k
        if weight_decay:
            grads = each.add(grads, leaves, weight_decay)
        nu = each.addcmul(each.mul(slots["nu"], alpha), grads, grads, 1.0 - alpha)
        return each.mul(each.div(grads, each.add(each.sqrt(nu), eps)), -lr), {"nu": nu}

    return from_rule(learning_rate, slots, direction)
