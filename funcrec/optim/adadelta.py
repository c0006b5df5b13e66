"""Adadelta."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from funcrec.optim import each
from funcrec.optim.base import Optimizer
from funcrec.optim.checks import finite_non_negative, fraction, positive
from funcrec.optim.rule import Slots, from_rule, zeros
from funcrec.optim.schedules import Schedule


def adadelta(
    learning_rate: float | Schedule = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    *,
    weight_decay: float = 0.0,
) -> Optimizer:
    """``g ← g + λw``; ``v ← ρv + (1-ρ)g²``; ``δ = g·√(u + ε)/√(v + ε)``; ``u ← ρu + (1-ρ)δ²``; ``w ← w - lr·δ``.

    The step does not change when all gradients are scaled, ε apart.

    Args:
        learning_rate: a number or a schedule; the paper has 1.
        rho: ρ in [0, 1).
        eps: ε, inside both roots.
        weight_decay: λ of the L2 term added to the gradient.

    Raises:
        ConfigError: a number outside its range.

    Reference: Zeiler 2012, algorithm 1.
    """
    finite_non_negative("adadelta", learning_rate=learning_rate, weight_decay=weight_decay)
    fraction("adadelta", rho=rho)
    positive("adadelta", eps=eps)

    def slots(leaves: Sequence[Tensor]) -> Slots:
        return {"delta": zeros(leaves), "nu": zeros(leaves)}

    def direction(
        grads: Sequence[Tensor], slots: Slots, leaves: Sequence[Tensor], lr: float, k: int
    ) -> tuple[list[Tensor], Slots]:
        del k
        if weight_decay:
            grads = each.add(grads, leaves, weight_decay)
        nu = each.addcmul(each.mul(slots["nu"], rho), grads, grads, 1.0 - rho)
        ratio = each.div(each.sqrt(each.add(slots["delta"], eps)), each.sqrt(each.add(nu, eps)))
        delta = [r * g for r, g in zip(ratio, grads, strict=True)]
        squares = each.addcmul(each.mul(slots["delta"], rho), delta, delta, 1.0 - rho)
        return each.mul(delta, -lr), {"delta": squares, "nu": nu}

    return from_rule(learning_rate, slots, direction)
