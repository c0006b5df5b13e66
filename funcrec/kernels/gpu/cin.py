"""Launchers of ``funcrec.kernels.cin``: which of three kernels, and which operand comes first.

``bilinear`` multiplies three arrays, and every order multiplies as often. What differs is how much of the tiles is
padding: the sizes of a layer and of its adjoints are 39 and 200 more often than powers of two.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from funcrec.kernels.gpu.cin_contract import contract, parts, takes
from funcrec.kernels.gpu.cin_contract import plan_for as plan_contract
from funcrec.kernels.gpu.cin_products import plan_for as plan_products
from funcrec.kernels.gpu.cin_products import products
from funcrec.kernels.gpu.cin_tiles import chunks
from funcrec.kernels.gpu.cin_triple import triple as _triple

# A step of ``contract`` ends with arithmetic on its sums, in which the tensor cores rest.
CONTRACT_COST = 1.3


MAX_ROWS = 2**31 - 2**10
"""Samples times components, which the kernels count in 32 bits: a larger batch is taken in halves."""


def _halves(*arrays: Tensor) -> list[tuple[Tensor, ...]] | None:
    """The arrays cut in two along the batch, if it is too large."""
    first = arrays[0]
    if first.shape[0] * first.shape[2] <= MAX_ROWS:
        return None
    return list(zip(*(a.chunk(2) for a in arrays), strict=True))


def _columns(n: int) -> int:
    cut = chunks(n, 40)
    return cut.number * cut.step // 2


def cost_of_products(x: Tensor, h: int, f: int, o: int) -> float:
    """Multiplications a row of ``products``, padding included."""
    bo = plan_products(x, o).bo
    return (h + h % 2) * _columns(f) * triton.cdiv(o, bo) * bo


def cost_of_contract(x: Tensor, f: int, o: int) -> float:
    """Those of ``contract`` of x with the weights, then with f columns."""
    if not takes(x, f):
        return float("inf")
    return CONTRACT_COST * sum(parts(x.shape[1], plan_contract(x).parts)) * (o + o % 2) * _columns(f)


def bilinear(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    if halves := _halves(x, y):
        return torch.cat([bilinear(half[0], half[1], w) for half in halves])
    o, h, f = w.shape
    costs = (
        cost_of_products(x, h, f, o),
        cost_of_products(x, f, h, o),
        cost_of_contract(x, f, o),
        cost_of_contract(y, h, o),
    )
    best = costs.index(min(costs))
    if best % 2:
        x, y, w = y, x, w.transpose(1, 2)
    return products(x, y, w) if best < 2 else contract(x, None, y, w.transpose(0, 1))[0]


def bilinear_vjp(c: Tensor, x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    if halves := _halves(c, x, y):
        parts_of = [bilinear_vjp(half[0], half[1], half[2], w) for half in halves]
        return torch.cat([dx for dx, _ in parts_of]), torch.cat([dy for _, dy in parts_of])
    if takes(c, y.shape[1]):
        return contract(c, x, y, w)
    if takes(c, x.shape[1]):
        dy, dx = contract(c, y, x, w.transpose(1, 2))
        return dx, dy
    return bilinear(c, y, w.permute(1, 0, 2)), bilinear(c, x, w.permute(2, 0, 1))


def triple(c: Tensor, x: Tensor, y: Tensor) -> Tensor:
    if halves := _halves(c, x, y):
        return triple(*halves[0]) + triple(*halves[1])
    return _triple(c, x, y)


def quadratic(x: Tensor, w: Tensor) -> Tensor:
    return bilinear(x, x, w)


def square(c: Tensor, x: Tensor) -> Tensor:
    if halves := _halves(c, x):
        return square(*halves[0]) + square(*halves[1])
    return _triple(c, x, x, symmetric=True)
