"""The cross network and its adjoint, of one layer, where no bias meets a weight, and of several."""

from __future__ import annotations

from typing import Any

import torch

from funcrec.core.random import fold_in, key, normal
from funcrec.kernels import cross
from tests.kernels.cases import OpCase, Size

SIZES: dict[Size, tuple[int, int]] = {"tiny": (3, 5), "odd": (1037, 429)}


def _make(dtype: torch.dtype, device: str, size: Size, *names: str, layers: int) -> tuple[Any, ...]:
    b, d = SIZES[size]
    shapes = {"x": (b, d), "c": (b, d), "weight": (layers, d), "bias": (layers, d)}
    draw = lambda name: normal(fold_in(key(1, device), name), shapes[name])  # noqa: E731
    scale = {"weight": d**-0.5}  # else the values of later layers grow without bound
    return tuple((draw(name) * scale.get(name, 1.0)).to(dtype) for name in names)


def _case(name: str, op: Any, reference: Any, *names: str, layers: int) -> OpCase:
    return OpCase(name, op, reference, lambda *a: _make(*a, *names, layers=layers))


CASES = [
    _case("cross", cross.cross, cross._cross, "x", "weight", "bias", layers=3),
    _case("cross_one_layer", cross.cross, cross._cross, "x", "weight", "bias", layers=1),
    _case("cross_vjp", cross.cross_vjp, cross._cross_vjp, "c", "x", "weight", "bias", layers=3),
    _case("cross_vjp_one_layer", cross.cross_vjp, cross._cross_vjp, "c", "x", "weight", "bias", layers=1),
]
