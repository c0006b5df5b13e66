"""Row rules without moving averages: SGD, Adagrad, row-wise Adagrad."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.optim.checks import finite_non_negative, positive
from funcrec.optim.rowwise.rule import RowRule, Slot, Slots
from funcrec.optim.schedules import Schedule

WeightDecayMode = Literal["none", "l2", "decouple"]


def sgd(learning_rate: float | Schedule, *, max_gradient: float | None = None) -> RowRule:
    """``w ← w - lr·g``.

    Raises:
        ConfigError: a number outside its range.
    """
    finite_non_negative("rowwise.sgd", learning_rate=learning_rate)
    positive("rowwise.sgd", max_gradient=max_gradient)

    def update(w: Tensor, g: Tensor, slots: Slots, step: int, lr: float) -> tuple[Tensor, Slots]:
        del step
        return w - lr * g, slots

    return RowRule("sgd", lambda dim: {}, update, learning_rate, max_gradient, {})


def adagrad(
    learning_rate: float | Schedule,
    *,
    initial_accumulator: float = 0.0,
    eps: float = 1e-8,
    max_gradient: float | None = None,
) -> RowRule:
    """``h ← h + g²``; ``w ← w - lr·g/(√h + ε)``, with h for each entry.

    Args:
        learning_rate: a number or a schedule.
        initial_accumulator: h of a row before its first step.
        eps: ε.
        max_gradient: see :class:`RowRule`.

    Raises:
        ConfigError: a number outside its range.

    Reference: Duchi, Hazan & Singer 2011, fig. 1; FBGEMM's ``EXACT_ADAGRAD``.
    """
    _check("rowwise.adagrad", learning_rate, initial_accumulator, eps, max_gradient)

    def update(w: Tensor, g: Tensor, slots: Slots, step: int, lr: float) -> tuple[Tensor, Slots]:
        del step
        total = slots["sum"] + g * g
        return w - lr * g / (total.sqrt() + eps), {"sum": total}

    slots = lambda dim: {"sum": Slot((dim,), initial_accumulator)}  # noqa: E731
    return RowRule("adagrad", slots, update, learning_rate, max_gradient, {"eps": eps})


def rowwise_adagrad(
    learning_rate: float | Schedule,
    *,
    initial_accumulator: float = 0.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mode: WeightDecayMode = "none",
    max_gradient: float | None = None,
) -> RowRule:
    """``h ← h + mean(ĝ²)``, one number a row; ``m = lr/(√h + ε)``; ``w ← c·w - m·g``.

    ========== ============ ==============
    mode       ĝ            c
    ========== ============ ==============
    none       ``g``        1
    l2         ``g + λw``   ``1 - m·λ``
    decouple   ``g``        ``1 - lr·λ``
    ========== ============ ==============

    Args:
        learning_rate: a number or a schedule.
        initial_accumulator: h of a row before its first step.
        eps: ε.
        weight_decay: λ.
        weight_decay_mode: the row of the table.
        max_gradient: see :class:`RowRule`.

    Raises:
        ConfigError: a number outside its range, or a weight decay with mode "none".

    Reference: FBGEMM's ``EXACT_ROWWISE_ADAGRAD``.
    """
    _check("rowwise.rowwise_adagrad", learning_rate, initial_accumulator, eps, max_gradient)
    finite_non_negative("rowwise.rowwise_adagrad", weight_decay=weight_decay)
    modes = get_args(WeightDecayMode)
    if weight_decay_mode not in modes or (weight_decay_mode == "none" and weight_decay > 0):
        fail(
            ConfigError,
            f"rowwise.rowwise_adagrad: weight_decay_mode with weight_decay {weight_decay}",
            got=repr(weight_decay_mode),
            expected=f"one of {modes}, and not 'none' with a decay",
        )

    def update(w: Tensor, g: Tensor, slots: Slots, step: int, lr: float) -> tuple[Tensor, Slots]:
        del step
        seen = g + weight_decay * w if weight_decay_mode == "l2" else g
        total = slots["sum"] + (seen * seen).mean(-1)
        m = (lr / (total.sqrt() + eps)).unsqueeze(-1)
        if weight_decay_mode == "l2":
            w = (1.0 - m * weight_decay) * w
        elif weight_decay_mode == "decouple":
            w = (1.0 - lr * weight_decay) * w
        return w - m * g, {"sum": total}

    slots = {"sum": Slot((), initial_accumulator)}
    constants = {"eps": eps, "weight_decay": weight_decay, "weight_decay_mode": weight_decay_mode}
    return RowRule("rowwise_adagrad", lambda dim: slots, update, learning_rate, max_gradient, constants)


def _check(
    where: str, learning_rate: float | Schedule, initial_accumulator: float, eps: float, max_gradient: float | None
) -> None:
    finite_non_negative(where, learning_rate=learning_rate, initial_accumulator=initial_accumulator)
    positive(where, eps=eps, max_gradient=max_gradient)
