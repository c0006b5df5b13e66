"""Exponential moving averages of leaves, as a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from funcrec.optim import each
from funcrec.optim.base import State, check_matching, scalar
from funcrec.optim.checks import fraction


class EmaUpdateFn(Protocol):
    """``(state, leaves, donate=False) -> state``; with ``donate`` the averages are written in place."""

    def __call__(self, state: State, leaves: Sequence[Tensor], *, donate: bool = False) -> State: ...


class Ema(NamedTuple):
    """``init(leaves) -> state``, ``update(state, leaves) -> state``, ``averages(state) -> leaves``."""

    init: Callable[[Sequence[Tensor]], State]
    update: EmaUpdateFn
    averages: Callable[[State], list[Tensor]]


def ema(decay: float = 0.999, *, debias: bool = False) -> Ema:
    """``a ← a + (1 - d)(w - a)`` after every step, from ``a = w`` at ``init``.

    With ``debias`` the initial leaves carry no weight: ``a = Σ dᵗ⁻ⁱ wᵢ / Σ dᵗ⁻ⁱ`` over the updates ``i = 1 … t``, which
    is Adam's correction ``1/(1 - dᵗ)`` of an average that starts at 0. Before the first update the averages are the
    initial leaves either way.

    Args:
        decay: d in [0, 1).
        debias: correct for the start.

    Raises:
        ConfigError: ``decay`` outside [0, 1).

    Reference: Kingma & Ba 2015, section 3, for the correction.
    """
    fraction("ema", decay=decay)

    def init(leaves: Sequence[Tensor]) -> State:
        # Copies: a donated step writes into the leaves themselves.
        return {"step": scalar(0, torch.int64), "average": [w.detach().clone() for w in leaves]}

    def update(state: State, leaves: Sequence[Tensor], *, donate: bool = False) -> State:
        old, k = state["average"], int(state["step"])
        check_matching(leaves, old, "leaf")
        weight = (1.0 - decay) / (1.0 - decay ** (k + 1)) if debias else 1.0 - decay
        if donate:
            with torch.no_grad():
                each.lerp_(old, leaves, weight)
        average = old if donate else each.lerp(old, leaves, weight)
        return {"step": state["step"] + 1, "average": average}

    return Ema(init, update, lambda state: list(state["average"]))
