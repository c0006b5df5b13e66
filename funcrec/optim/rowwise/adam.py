"""Row rules with moving averages: Adam and LAMB, each also with one second moment a row."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.optim.adam import check_adam
from funcrec.optim.checks import finite_non_negative, positive
from funcrec.optim.rowwise.rule import RowRule, Slot, Slots
from funcrec.optim.schedules import Schedule

Betas = tuple[float, float]


def adam(
    learning_rate: float | Schedule,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    max_gradient: float | None = None,
) -> RowRule:
    """``m ← β₁m + (1-β₁)g``; ``v ← β₂v + (1-β₂)g²``; ``w ← w - lr·(m̂/(√v̂ + ε) + λw)`` on touched rows.

    ``m̂ = m/(1-β₁ᵗ)`` and ``v̂ = v/(1-β₂ᵗ)``, where t counts the updates of the *table*: a row first seen late has
    moments near their start but corrections near 1. The decay is decoupled.

    Args:
        learning_rate: a number or a schedule.
        betas: ``(β₁, β₂)``, each in [0, 1).
        eps: ε.
        weight_decay: λ.
        max_gradient: see :class:`RowRule`.

    Raises:
        ConfigError: a number outside its range.

    Reference: Kingma & Ba 2015, algorithm 1; FBGEMM's ``ADAM``.
    """
    return _family("adam", learning_rate, betas, eps, weight_decay, max_gradient)


def partial_rowwise_adam(
    learning_rate: float | Schedule,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    max_gradient: float | None = None,
) -> RowRule:
    """:func:`adam` with one second moment a row, ``v ← β₂v + (1-β₂)·mean(g²)``; FBGEMM's ``PARTIAL_ROWWISE_ADAM``."""
    return _family("partial_rowwise_adam", learning_rate, betas, eps, weight_decay, max_gradient, rowwise=True)


def lamb(
    learning_rate: float | Schedule,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    max_gradient: float | None = None,
    zero_norm_ratio: float = 0.0,
) -> RowRule:
    """``r = m̂/(√v̂ + ε) + λw``; ``w ← w - lr·(‖w‖/‖r‖)·r``, with the norms of each row.

    Moments and the other arguments are those of :func:`adam`. Where ``‖r‖ = 0`` the row stays (FBGEMM's 0/0 is NaN).
    Where ``‖w‖ = 0`` the trust ratio is ``zero_norm_ratio``: at 0, as in FBGEMM, a row of zeros never moves; at 1, as
    in the dense :func:`funcrec.optim.lamb`, it takes an Adam step.

    Reference: You et al. 2020, algorithm 2; FBGEMM's ``LAMB``.
    """
    return _family("lamb", learning_rate, betas, eps, weight_decay, max_gradient, zero_norm_ratio=zero_norm_ratio)


def partial_rowwise_lamb(
    learning_rate: float | Schedule,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    max_gradient: float | None = None,
    zero_norm_ratio: float = 0.0,
) -> RowRule:
    """:func:`lamb` with the second moment of :func:`partial_rowwise_adam`; FBGEMM's ``PARTIAL_ROWWISE_LAMB``."""
    return _family(
        "partial_rowwise_lamb",
        learning_rate,
        betas,
        eps,
        weight_decay,
        max_gradient,
        rowwise=True,
        zero_norm_ratio=zero_norm_ratio,
    )


def _family(
    name: str,
    learning_rate: float | Schedule,
    betas: Betas,
    eps: float,
    weight_decay: float,
    max_gradient: float | None,
    *,
    rowwise: bool = False,
    zero_norm_ratio: float | None = None,
) -> RowRule:
    """``rowwise``: one second moment a row. ``zero_norm_ratio``: not None for a trust ratio."""
    check_adam(f"rowwise.{name}", learning_rate, betas, eps, weight_decay)
    positive(f"rowwise.{name}", max_gradient=max_gradient)
    finite_non_negative(f"rowwise.{name}", zero_norm_ratio=zero_norm_ratio)
    b1, b2 = betas

    def slots(dim: int) -> dict[str, Slot]:
        return {"mu": Slot((dim,)), "nu": Slot(() if rowwise else (dim,))}

    def update(w: Tensor, g: Tensor, slots: Slots, step: int, lr: float) -> tuple[Tensor, Slots]:
        square = (g * g).mean(-1) if rowwise else g * g
        mu = b1 * slots["mu"] + (1.0 - b1) * g
        nu = b2 * slots["nu"] + (1.0 - b2) * square
        root = (nu / (1.0 - b2**step)).sqrt()
        r = mu / (1.0 - b1**step) / ((root.unsqueeze(-1) if rowwise else root) + eps)
        if weight_decay:
            r = r + weight_decay * w
        if zero_norm_ratio is not None:
            r = r * _trust(w, r, zero_norm_ratio)
        return w - lr * r, {"mu": mu, "nu": nu}

    constants = {"beta_1": b1, "beta_2": b2, "eps": eps, "weight_decay": weight_decay}
    return RowRule(name, slots, update, learning_rate, max_gradient, None if zero_norm_ratio is not None else constants)


def _trust(w: Tensor, r: Tensor, zero_norm_ratio: float) -> Tensor:
    norm_w = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
    norm_r = torch.linalg.vector_norm(r, dim=-1, keepdim=True)
    usable = (norm_w > 0) & (norm_r > 0)
    ratio = norm_w / torch.where(usable, norm_r, torch.ones_like(norm_r))
    return torch.where(usable, ratio, torch.full_like(ratio, zero_norm_ratio))
