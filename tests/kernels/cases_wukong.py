"""The WuKong layer around its MLP: products, mixing and norm, with the identity and with a matrix as residual."""

from __future__ import annotations

from typing import Any

import torch

from funcrec.core.random import fold_in, key, normal
from funcrec.kernels import wukong
from tests.kernels.cases import OpCase, Size

SIZES: dict[Size, tuple[int, int, int, int, int, int]] = {"tiny": (3, 5, 3, 2, 2, 3), "odd": (1037, 39, 50, 11, 19, 20)}


def _make(dtype: torch.dtype, device: str, size: Size, *names: str, matrix: bool) -> tuple[Any, ...]:
    b, n, d, k, f, m = SIZES[size]
    if matrix:
        n += 1
    shapes = {
        "products_c": (b, n, k),
        "c": (b, f + m, d),
        "x": (b, n, d),
        "compress": (n, k),
        "fmb": (b, f, d),
        "lcb": (n, m),
        "residual": (n, f + m),
        "scale": (d,),
        "shift": (d,),
    }
    std = 0.5 if size == "tiny" else 0.2  # sums of thousands of products stay near 1
    draw = lambda name: normal(fold_in(key(1, device), name), shapes[name], std=std).to(dtype)  # noqa: E731
    return tuple(None if name == "residual" and not matrix else draw(name) for name in names)


def _case(name: str, op: Any, reference: Any, *names: str, matrix: bool = False) -> OpCase:
    return OpCase(name, op, reference, lambda *a: _make(*a, *names, matrix=matrix))


MIX = ("x", "fmb", "lcb", "residual", "scale", "shift")
CASES = [
    _case("wukong_products", wukong.products, wukong._products, "x", "compress"),
    _case("wukong_products_vjp", wukong.products_vjp, wukong._products_vjp, "products_c", "x", "compress"),
    _case("wukong_mix", wukong.mix, wukong._mix, *MIX),
    _case("wukong_mix_matrix", wukong.mix, wukong._mix, *MIX, matrix=True),
    _case("wukong_mix_vjp", wukong.mix_vjp, wukong._mix_vjp, "c", *MIX[:-1]),
    _case("wukong_mix_vjp_matrix", wukong.mix_vjp, wukong._mix_vjp, "c", *MIX[:-1], matrix=True),
]
