"""Learning-rate schedules: functions of ``k``, the number of steps already taken, so the first step reads ``k = 0``.

They compose: ``warmup(exponential_decay(1e-2, 1000), 200)``. A ``minimum`` above the learning rate is not refused:
weights that inherit another optimizer's schedule with a lower rate of their own may have one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise

from funcrec.core.errors import ConfigError, fail
from funcrec.optim.checks import finite_non_negative, positive

Schedule = Callable[[int], float]


def as_schedule(learning_rate: float | Schedule) -> Schedule:
    """The schedule itself, or the constant one of a number."""
    return learning_rate if callable(learning_rate) else constant(learning_rate)


def constant(learning_rate: float) -> Schedule:
    """``lr(k) = learning_rate``."""
    finite_non_negative("learning rate", learning_rate=learning_rate)
    return lambda k: learning_rate


def exponential_decay(
    learning_rate: float, size: int, factor: float = 0.95, staircase: bool = True, minimum: float = 0.0
) -> Schedule:
    """``lr(k) = max(learning_rate · factor^(k / size), minimum)``, with ``⌊k / size⌋`` if ``staircase``.

    Raises:
        ConfigError: ``size`` or ``factor`` is not positive, or a negative number.
    """
    positive("exponential_decay", size=size, factor=factor)
    finite_non_negative("exponential_decay", learning_rate=learning_rate, minimum=minimum)

    def schedule(k: int) -> float:
        return max(learning_rate * factor ** (k // size if staircase else k / size), minimum)

    return schedule


def linear_decay(learning_rate: float, t_max: int, minimum: float = 0.0) -> Schedule:
    """``lr(k) = learning_rate + (minimum - learning_rate) t / t_max`` with ``t = min(k, t_max)``.

    Raises:
        ConfigError: ``t_max`` is not positive, or a negative number.
    """
    positive("linear_decay", t_max=t_max)
    finite_non_negative("linear_decay", learning_rate=learning_rate, minimum=minimum)
    return lambda k: minimum + (learning_rate - minimum) * (1.0 - min(k, t_max) / t_max)


def cosine(learning_rate: float, t_max: int, minimum: float = 0.0) -> Schedule:
    """``lr(k) = minimum + (learning_rate - minimum) (1 + cos(π t / t_max)) / 2`` with ``t = min(k, t_max)``.

    Raises:
        ConfigError: ``t_max`` is not positive, or a negative number.

    Reference: Loshchilov & Hutter 2017, SGDR, eq. 5.
    """
    positive("cosine", t_max=t_max)
    finite_non_negative("cosine", learning_rate=learning_rate, minimum=minimum)
    return lambda k: _half_cosine(learning_rate, minimum, min(k, t_max) / t_max)


def cosine_restarts(learning_rate: float, t_0: int, t_mult: int = 1, minimum: float = 0.0) -> Schedule:
    """The half cosine of :func:`cosine` over cycles of ``t_0, t_0·t_mult, t_0·t_mult², …`` steps.

    Each cycle starts at ``learning_rate`` exactly: cycle borders are found in integers, not through a logarithm.

    Raises:
        ConfigError: ``t_0 <= 0``, ``t_mult < 1``, one of them no integer, or a negative number.

    Reference: Loshchilov & Hutter 2017, SGDR, eq. 5.
    """
    if not isinstance(t_0, int) or not isinstance(t_mult, int) or t_0 < 1 or t_mult < 1:
        fail(ConfigError, "cosine_restarts: t_0, t_mult", got=(t_0, t_mult), expected="integers >= 1")
    finite_non_negative("cosine_restarts", learning_rate=learning_rate, minimum=minimum)

    def schedule(k: int) -> float:
        t, cycle = k, t_0
        if t_mult == 1:
            t %= cycle
        while t >= cycle:
            t, cycle = t - cycle, cycle * t_mult
        return _half_cosine(learning_rate, minimum, t / cycle)

    return schedule


def manual_step(
    learning_rate: float, sizes: Sequence[int], learning_rates: Sequence[float], warmup: bool = False
) -> Schedule:
    """``learning_rate`` while ``k <= sizes[0]``, then ``learning_rates[i]`` while ``sizes[i] < k <= sizes[i + 1]``.

    A new rate starts one step *after* its size. With ``warmup``, steps ``0 … sizes[0]`` go linearly from
    ``learning_rate`` to ``learning_rates[0]``.

    Raises:
        ConfigError: sizes not increasing from at least 0 (with ``warmup`` 1), or not one learning rate a size.
    """
    sizes, rates = tuple(sizes), tuple(learning_rates)
    first = 1 if warmup else 0
    if not sizes or sizes[0] < first or any(a >= b for a, b in pairwise(sizes)):
        fail(ConfigError, "manual_step: sizes", got=sizes, expected=f"increasing integers >= {first}")
    if len(rates) != len(sizes):
        fail(
            ConfigError, "manual_step: learning_rates", got=f"{len(rates)} rates", expected=f"one a size, {len(sizes)}"
        )
    finite_non_negative("manual_step", learning_rate=learning_rate, **{f"rate_{i}": r for i, r in enumerate(rates)})

    def schedule(k: int) -> float:
        i = bisect_left(sizes, k)
        if i > 0:
            return rates[i - 1]
        return learning_rate + (rates[0] - learning_rate) * k / sizes[0] if warmup else learning_rate

    return schedule


def warmup(schedule: float | Schedule, size: int, start: float = 0.0) -> Schedule:
    """Linear from ``start`` to ``schedule(0)`` over ``size`` steps, then ``schedule(k - size)``.

    Raises:
        ConfigError: ``size`` or ``start`` is negative.
    """
    finite_non_negative("warmup", size=size, start=start)
    inner = as_schedule(schedule)
    return lambda k: start + (inner(0) - start) * k / size if k < size else inner(k - size)


def _half_cosine(high: float, low: float, t: float) -> float:
    return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * t))
