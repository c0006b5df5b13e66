"""The factorization machine's interaction, the bilinear form behind it, and its adjoint."""

from __future__ import annotations

from typing import Any

import torch

from funcrec.core.random import fold_in, key, normal
from funcrec.kernels import fm
from tests.kernels.cases import OpCase, Size

SIZES: dict[Size, tuple[int, int, int]] = {"tiny": (3, 4, 5), "odd": (2053, 39, 17)}


def _make(dtype: torch.dtype, device: str, size: Size, *names: str) -> tuple[Any, ...]:
    b, n, d = SIZES[size]
    shapes = {"x": (b, n, d), "y": (b, n, d), "c": (b, d)}
    return tuple(normal(fold_in(key(1, device), name), shapes[name]).to(dtype) for name in names)


def _case(name: str, op: Any, reference: Any, *names: str) -> OpCase:
    return OpCase(name, op, reference, lambda *a: _make(*a, *names))


CASES = [
    _case("fm", fm.fm, fm._fm, "x"),
    _case("fm2", fm.fm2, fm._fm2, "x", "y"),
    _case("fm_spread", fm.fm_spread, fm._fm_spread, "c", "y"),
]
