"""Dot interaction: the layer's op and its adjoint, with and without the dense row, and the bilinear forms behind."""

from __future__ import annotations

from typing import Any

import torch

from funcrec.core.random import fold_in, key, normal
from funcrec.kernels import dot
from tests.kernels.cases import OpCase, Size

SIZES: dict[Size, tuple[int, int, int]] = {"tiny": (3, 3, 5), "odd": (1037, 26, 33)}


def _make(dtype: torch.dtype, device: str, size: Size, *names: str, dense: bool, diagonal: bool) -> tuple[Any, ...]:
    b, n, d = SIZES[size]
    pairs = dot.n_pairs(n + dense, diagonal)
    shapes = {"x": (b, n, d), "y": (b, n, d), "dense": (b, d), "c": (b, pairs + d * dense)}
    draw = lambda name: normal(fold_in(key(1, device), name), shapes[name]).to(dtype)  # noqa: E731
    return (*(None if name == "none" else draw(name) for name in names), diagonal)


def _case(name: str, op: Any, reference: Any, *names: str, diagonal: bool = False) -> OpCase:
    dense = "dense" in names
    return OpCase(name, op, reference, lambda *a: _make(*a, *names, dense=dense, diagonal=diagonal))


CASES = [
    _case("dots", dot.dots, dot._dots, "x", "none"),
    _case("dots_diagonal", dot.dots, dot._dots, "x", "none", diagonal=True),
    _case("dots_dense", dot.dots, dot._dots, "x", "dense"),
    _case("dots_vjp", dot.dots_vjp, dot._dots_vjp, "c", "x", "none"),
    _case("dots_vjp_dense", dot.dots_vjp, dot._dots_vjp, "c", "x", "dense", diagonal=True),
    _case("pair", dot.pair, dot._pair, "x", "y"),
    _case("spread", dot.spread, dot._spread, "c", "y", diagonal=True),
]
