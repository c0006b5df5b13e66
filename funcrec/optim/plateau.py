"""Shrink the learning rate when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from funcrec.core.errors import ConfigError, NonFiniteError, fail
from funcrec.optim.base import State, scalar
from funcrec.optim.checks import finite_non_negative


class Plateau(NamedTuple):
    """``init() -> state``; ``update(state, metric) -> (state, scale)``, the scale being meant for ``set_scale``."""

    init: Callable[[], State]
    update: Callable[[State, float], tuple[State, float]]


def plateau(
    mode: Literal["max", "min"] = "max",
    *,
    factor: float = 0.1,
    patience: int = 10,
    min_delta: float = 0.0,
    min_scale: float = 0.0,
) -> Plateau:
    """Multiply the scale, at first 1, by ``factor`` after more than ``patience`` evaluations without improvement.

    An evaluation improves when it is better than the best so far by more than ``min_delta``. The count starts again
    after each reduction, and the scale does not fall below ``min_scale``.

    >>> controller = plateau("min", factor=0.5, patience=0)
    >>> state = controller.init()
    >>> state, scale = controller.update(state, 1.0)
    >>> state, scale = controller.update(state, 1.0)
    >>> scale
    0.5

    Args:
        mode: whether larger or smaller is better.
        factor: in (0, 1).
        patience: evaluations without improvement that are forgiven.
        min_delta: absolute improvement needed.
        min_scale: in [0, 1].

    Raises:
        ConfigError: an argument outside its range.
        NonFiniteError: from ``update``, a metric that is NaN.
    """
    if mode not in ("max", "min"):
        fail(ConfigError, "plateau: mode", got=repr(mode), expected="'max' or 'min'")
    if not 0.0 < factor < 1.0:
        fail(ConfigError, "plateau: factor", got=factor, expected="a number in (0, 1)")
    if not 0.0 <= min_scale <= 1.0:
        fail(ConfigError, "plateau: min_scale", got=min_scale, expected="a number in [0, 1]")
    finite_non_negative("plateau", patience=patience, min_delta=min_delta)
    sign = 1.0 if mode == "max" else -1.0

    def init() -> State:
        # "level", not "scale": set_scale on a state that also holds this one must leave it alone.
        return _state(-sign * math.inf, 0, 1.0)

    def update(state: State, metric: float) -> tuple[State, float]:
        if math.isnan(metric):
            fail(NonFiniteError, "plateau: metric", got=metric, fix="look for the first NaN in the evaluation")
        best, bad, level = float(state["best"]), int(state["bad"]), float(state["level"])
        if sign * metric > sign * best + min_delta:
            best, bad = float(metric), 0
        else:
            bad += 1
        if bad > patience:
            level, bad = max(level * factor, min_scale), 0
        return _state(best, bad, level), level

    return Plateau(init, update)


def _state(best: float, bad: int, level: float) -> State:
    return {
        "best": scalar(best, torch.float64),
        "bad": scalar(bad, torch.int64),
        "level": scalar(level, torch.float64),
    }
