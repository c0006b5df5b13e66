"""Errors that say what was seen, what was expected and what to do.

Every error the library raises on purpose derives from :class:`FuncrecError`, itself a ``ValueError``: a caller can
catch the family, one kind, or just ``ValueError``.
"""

from __future__ import annotations

from typing import NoReturn


class FuncrecError(ValueError):
    """Base of all errors raised on purpose by funcrec."""


class ConfigError(FuncrecError):
    """A config that cannot describe a model, an optimizer, a schema or a run."""


class ShapeError(FuncrecError):
    """An input whose shape or dtype is not the one that the config promised."""


class KeyMissingError(FuncrecError):
    """A stochastic layer in training mode was called without a random key."""


class DataError(FuncrecError):
    """Input data that cannot be used: a bad file, row, column, value, id or label."""


class NonFiniteError(FuncrecError):
    """A NaN or an infinity where a finite number is needed."""


class CheckpointError(FuncrecError):
    """A checkpoint that is damaged, incomplete or belongs to another config."""


def fail(
    error: type[FuncrecError],
    what: str,
    *,
    got: object = None,
    expected: object = None,
    fix: str | None = None,
) -> NoReturn:
    """Raise ``error`` with one message of a fixed order: what is wrong, what was seen, what was expected, the remedy.

    >>> fail(ShapeError, "group 'deep'", got=(4, 3), expected=(4, 2), fix="check the field dims")
    Traceback (most recent call last):
        ...
    funcrec.core.errors.ShapeError: group 'deep': got (4, 3), expected (4, 2); check the field dims.
    """
    parts = []
    if got is not None:
        parts.append(f"got {got}")
    if expected is not None:
        parts.append(f"expected {expected}")
    message = what + (": " + ", ".join(parts) if parts else "")
    raise error(f"{message}; {fix}." if fix else f"{message}.")
