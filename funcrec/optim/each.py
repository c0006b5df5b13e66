"""Element-wise operations over lists of tensors: one foreach call, or a loop where foreach cannot go.

The foreach operators have no batching rules and reject empty lists, so inside a ``torch.func`` transform each tensor
is handled by itself; that is what makes pure updates work under ``vmap``, ``grad`` and ``jvp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = Sequence[Tensor]


def transforming() -> bool:
    """Whether a ``torch.func`` transform is running."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _each(name: str, xs: Tensors, *args: Any, **kwargs: Any) -> list[Tensor]:
    if not xs:
        return []
    if not transforming():
        return list(getattr(torch, f"_foreach_{name}")(list(xs), *args, **kwargs))
    columns = [a if isinstance(a, (list, tuple)) else [a] * len(xs) for a in args]
    return [getattr(torch, name)(*row, **kwargs) for row in zip(xs, *columns, strict=True)]


def add(xs: Tensors, ys: Tensors | float, alpha: float = 1.0) -> list[Tensor]:
    """``x + alpha y``."""
    return _each("add", xs, list(ys), alpha=alpha) if isinstance(ys, Sequence) else _each("add", xs, ys)


def add_(xs: Tensors, ys: Tensors) -> None:
    """``x ← x + y`` in place."""
    if xs:
        torch._foreach_add_(list(xs), list(ys))


def mul(xs: Tensors, y: float | Tensor) -> list[Tensor]:
    """``x y`` with one scalar, or one scalar tensor, for all."""
    return _each("mul", xs, y)


def div(xs: Tensors, ys: Tensors | float) -> list[Tensor]:
    """``x / y``."""
    return _each("div", xs, list(ys) if isinstance(ys, Sequence) else ys)


def sqrt(xs: Tensors) -> list[Tensor]:
    """``√x``."""
    return _each("sqrt", xs)


def maximum(xs: Tensors, ys: Tensors) -> list[Tensor]:
    """``max(x, y)``."""
    return _each("maximum", xs, list(ys))


def lerp(xs: Tensors, ys: Tensors, weight: float) -> list[Tensor]:
    """``x + weight (y - x)``."""
    return _each("lerp", xs, list(ys), weight)


def lerp_(xs: Tensors, ys: Tensors, weight: float) -> None:
    """``x ← x + weight (y - x)`` in place."""
    if xs:
        torch._foreach_lerp_(list(xs), list(ys), weight)


def addcmul(xs: Tensors, ys: Tensors, zs: Tensors, value: float) -> list[Tensor]:
    """``x + value y z``."""
    return _each("addcmul", xs, list(ys), list(zs), value=value)
