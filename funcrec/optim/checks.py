"""Ranges of hyper-parameters, checked once in the factories."""

from __future__ import annotations

import math

from funcrec.core.errors import ConfigError, fail


def finite_non_negative(where: str, **fields: object) -> None:
    """Raise unless every number is finite and >= 0; schedules and None pass."""
    for name, x in fields.items():
        if isinstance(x, (int, float)) and not (math.isfinite(x) and x >= 0):
            fail(ConfigError, f"{where}: {name}", got=x, expected="a finite number >= 0")


def positive(where: str, **fields: float | None) -> None:
    """Raise unless every number is > 0; None passes."""
    for name, x in fields.items():
        if x is not None and not x > 0:
            fail(ConfigError, f"{where}: {name}", got=x, expected="a number > 0")


def fraction(where: str, **fields: float) -> None:
    """Raise unless every number is in [0, 1)."""
    for name, x in fields.items():
        if not 0.0 <= x < 1.0:
            fail(ConfigError, f"{where}: {name}", got=x, expected="a number in [0, 1)")
