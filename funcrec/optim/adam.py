"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.optim import each
from funcrec.optim.base import Optimizer
from funcrec.optim.checks import finite_non_negative, fraction, positive
from funcrec.optim.rule import Slots, count_tensor, from_rule, zeros
from funcrec.optim.schedules import Schedule


def adam(
    learning_rate: float | Schedule,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
) -> Optimizer:
    """``m ← β₁m + (1-β₁)g``; ``v ← β₂v + (1-β₂)g²``; ``w ← w - lr·m̂/(√v̂ + ε)``, with ``g`` including ``λw``.

    ``m̂ = m/(1-β₁ᵗ)`` and ``v̂ = v/(1-β₂ᵗ)`` at the t-th step. The derivative of an update with respect to the gradient
    is NaN where ``v`` is exactly 0, as for every square root.

    Args:
        learning_rate: a number or a schedule.
        betas: ``(β₁, β₂)``, each in [0, 1).
        eps: ε.
        weight_decay: λ of the L2 term added to the gradient.
        amsgrad: divide by the largest ``v`` so far instead of the current one.

    Raises:
        ConfigError: a number outside its range.

    Reference: Kingma & Ba 2015, algorithm 1; Reddi, Kale & Kumar 2018, algorithm 2, for ``amsgrad``.
    """
    return _adam("adam", learning_rate, betas, eps, weight_decay, amsgrad, decoupled=False)


def adamw(
    learning_rate: float | Schedule,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.01,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam without the L2 term, and ``w ← w - lr·λ·w`` beside it: ``w ← w - lr·(m̂/(√v̂ + ε) + λw)``.

    Args and errors as :func:`adam`; ``weight_decay`` is the decoupled λ.

    Reference: Loshchilov & Hutter 2019, algorithm 2.
    """
    return _adam("adamw", learning_rate, betas, eps, weight_decay, amsgrad, decoupled=True)


def check_adam(
    where: str, learning_rate: float | Schedule, betas: tuple[float, float], eps: float, weight_decay: float
) -> None:
    """Raise unless the hyper-parameters are those of some member of the Adam family."""
    finite_non_negative(where, learning_rate=learning_rate, weight_decay=weight_decay)
    fraction(where, beta1=betas[0], beta2=betas[1])
    positive(where, eps=eps)


def init_moments(leaves: Sequence[Tensor]) -> Slots:
    """The slots ``mu`` and ``nu``: moving averages of the gradient and of its square."""
    return {"mu": zeros(leaves), "nu": zeros(leaves)}


def adam_ratio(
    grads: Sequence[Tensor], slots: Slots, betas: tuple[float, float], eps: float, k: int
) -> tuple[list[Tensor], Slots]:
    """``m̂/(√v̂ + ε)`` of the moments after this gradient, and those moments; v is ``nu_max`` where given."""
    b1, b2 = betas
    mu = each.lerp(slots["mu"], grads, 1.0 - b1)
    nu = each.addcmul(each.mul(slots["nu"], b2), grads, grads, 1.0 - b2)
    new = {"mu": mu, "nu": nu}
    if "nu_max" in slots:
        new["nu_max"] = each.maximum(slots["nu_max"], nu)
    root = each.div(each.sqrt(new.get("nu_max", nu)), math.sqrt(1.0 - b2 ** (k + 1)))
    ratio = each.div(each.div(mu, 1.0 - b1 ** (k + 1)), each.add(root, eps))
    return ratio, new


def _adam(
    where: str,
    learning_rate: float | Schedule,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    decoupled: bool,
) -> Optimizer:
    check_adam(where, learning_rate, betas, eps, weight_decay)
    fused = torch._fused_adamw_ if decoupled else torch._fused_adam_

    def init(leaves: Sequence[Tensor]) -> Slots:
        return init_moments(leaves) | ({"nu_max": zeros(leaves)} if amsgrad else {})

    def direction(
        grads: Sequence[Tensor], slots: Slots, leaves: Sequence[Tensor], lr: float, k: int
    ) -> tuple[list[Tensor], Slots]:
        if weight_decay and not decoupled:
            grads = each.add(grads, leaves, weight_decay)
        ratio, slots = adam_ratio(grads, slots, betas, eps, k)
        if weight_decay and decoupled:
            ratio = each.add(ratio, leaves, weight_decay)
        return each.mul(ratio, -lr), slots

    def kernel(leaves: list[Tensor], grads: list[Tensor], slots: Slots, lr: float, k: int) -> None:
        fused(
            leaves,
            grads,
            slots["mu"],
            slots["nu"],
            slots.get("nu_max", []),
            [count_tensor(k, leaves[0])] * len(leaves),
            lr=lr,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=amsgrad,
            maximize=False,
        )

    return from_rule(learning_rate, init, direction, kernel, "_fused_adamw_" if decoupled else "_fused_adam_")
