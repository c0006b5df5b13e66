"""CIN layers: the bilinear form, its adjoints, the first layer's quadratic; sizes for every kernel and order."""

from __future__ import annotations

from typing import Any

import torch

from funcrec.core.random import fold_in, key, normal
from funcrec.kernels import cin
from tests.kernels.cases import OpCase, Size

Sizes = tuple[int, int, int, int, int]  # b, d, o, h, f
ROWS = (211, 10)
SIZES: dict[Size, Sizes] = {"tiny": (2, 3, 3, 4, 2), "odd": (*ROWS, 70, 50, 39)}
# One wide operand and a narrow result; more columns than a chunk, on both sides; neither gradient in one pass.
NARROW: dict[Size, Sizes] = {"tiny": (3, 2, 2, 5, 3), "odd": (*ROWS, 39, 128, 37)}
CHUNKS: dict[Size, Sizes] = {"tiny": (2, 2, 3, 2, 3), "odd": (*ROWS, 50, 90, 100)}
TURNED: dict[Size, Sizes] = {"tiny": (2, 1, 3, 2, 4), "odd": (*ROWS, 65, 39, 50)}


def _make(dtype: torch.dtype, device: str, size: Size, *names: str, sizes: dict[Size, Sizes]) -> tuple[Any, ...]:
    b, d, o, h, f = sizes[size]
    shapes = {"x": (b, h, d), "y": (b, f, d), "c": (b, o, d), "sum": (b, o, d), "w": (o, h, f), "square_w": (o, h, h)}
    # Results of the size of one: their sums go through a sine in the tests.
    stds = {"w": (h * f) ** -0.5, "square_w": 1 / h, "sum": (b * d) ** -0.5}
    draw = lambda name: normal(fold_in(key(1, device), name), shapes[name], std=stds.get(name, 1.0))  # noqa: E731
    return tuple(draw(name).to(dtype) for name in names)


def _case(name: str, op: Any, reference: Any, *names: str, sizes: dict[Size, Sizes] = SIZES) -> OpCase:
    return OpCase(name, op, reference, lambda *a: _make(*a, *names, sizes=sizes))


VJP = ("c", "x", "y", "w")
CASES = [
    _case("bilinear", cin.bilinear, cin._bilinear, "x", "y", "w"),
    _case("bilinear_narrow", cin.bilinear, cin._bilinear, "x", "y", "w", sizes=NARROW),
    _case("bilinear_chunks", cin.bilinear, cin._bilinear, "x", "y", "w", sizes=CHUNKS),
    _case("bilinear_vjp", cin.bilinear_vjp, cin._bilinear_vjp, *VJP),
    _case("bilinear_vjp_chunks", cin.bilinear_vjp, cin._bilinear_vjp, *VJP, sizes=CHUNKS),
    _case("bilinear_vjp_turned", cin.bilinear_vjp, cin._bilinear_vjp, *VJP, sizes=TURNED),
    _case("triple", cin.triple, cin._triple, "sum", "x", "y"),
    _case("quadratic", cin.quadratic, cin._quadratic, "x", "square_w"),
    _case("square", cin.square, cin._square, "sum", "x"),
]
