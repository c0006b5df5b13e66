"""Forward kernel of ``funcrec.kernels.din``: a program takes one sample after the other, and a block of steps at once.

A sample's first layer is one matrix, ``B + C diag(q)``, made on the fly; scores, softmax and sum stay in registers, and
a step is read once. The first layer is in two parts, 64 and 16 units for instance, where one block would hold 128.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.launch import block, precision, programs, upcast

CODES = {"identity": 0, "relu": 1, "sigmoid": 2}
RELU, SIGMOID = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def activate(x, ACT: tl.constexpr):
    if ACT == RELU:
        return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACT == SIGMOID:
        return tl.sigmoid(x)
    else:
        return x


@triton.jit
def vector(ptr, i, N: tl.constexpr):
    """Numbers in float32, zeros from N on."""
    return tl.load(ptr + i, mask=i < N, other=0.0).to(tl.float32)


@triton.jit
def matrix(ptr, i, j, stride, N: tl.constexpr, M: tl.constexpr, UP: tl.constexpr):
    """Rows i and columns j of a matrix ``[N, M]``, zeros outside."""
    x = tl.load(ptr + i[:, None] * stride + j[None, :], mask=(i < N)[:, None] & (j < M)[None, :], other=0.0)
    return x.to(tl.float32) if UP else x


@triton.jit
def first_layer(b_ptr, c_ptr, q, h, d, b_stride, c_stride, H1: tl.constexpr, D: tl.constexpr, UP: tl.constexpr):
    """``B + C diag(q)``, as the products take it."""
    b = matrix(b_ptr, h, d, b_stride, H1, D, UP)
    c = matrix(c_ptr, h, d, c_stride, H1, D, UP)
    return (b.to(tl.float32) + c.to(tl.float32) * q[None, :]).to(b.dtype)


@triton.jit
def steps(k_ptr, start, t, d, n, stride, D: tl.constexpr, UP: tl.constexpr):
    """Steps t of a sample of n, zeros past its end."""
    at = (start + t)[:, None] * stride + d[None, :]  # int64, as start is
    k = tl.load(k_ptr + at, mask=(t < n)[:, None] & (d < D)[None, :], other=0.0)
    return k.to(tl.float32) if UP else k


@triton.jit
def place(start_ptr, length_ptr, row, batch):
    """The first step of a sample, and how many it has."""
    start = tl.load(start_ptr + row, mask=row < batch, other=0)
    return start, tl.load(length_ptr + row, mask=row < batch, other=0).to(tl.int32)


@triton.jit
def layers(k, first, first_r, a, a_r, w2, w2_r, b2, RIGHT: tl.constexpr, ACT: tl.constexpr, PRECISION: tl.constexpr):
    """The hidden layers of a block of steps: both parts of the first, in the dtype of products, and the second."""
    g = tl.dot(k, tl.trans(first), input_precision=PRECISION)
    g = activate(g + a[None, :], ACT).to(k.dtype)
    h = tl.dot(g, tl.trans(w2), input_precision=PRECISION)
    g_r = g
    if RIGHT:
        g_r = tl.dot(k, tl.trans(first_r), input_precision=PRECISION)
        g_r = activate(g_r + a_r[None, :], ACT).to(k.dtype)
        h = tl.dot(g_r, tl.trans(w2_r), h, input_precision=PRECISION)
    return g, g_r, activate(h + b2[None, :], ACT)


@triton.jit
def _din(
    a_ptr, q_ptr, k_ptr, start_ptr, length_ptr, b_ptr, c_ptr, w2_ptr, b2_ptr, w3_ptr, b3_ptr, out_ptr, batch, k_stride,
    b_stride, c_stride, D: tl.constexpr, H1: tl.constexpr, H2: tl.constexpr, BD: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, BH2: tl.constexpr, BT: tl.constexpr, ACT: tl.constexpr, SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    d = tl.arange(0, BD)
    h1 = tl.arange(0, LEFT)
    r1 = LEFT + tl.arange(0, RIGHT or LEFT)
    h2 = tl.arange(0, BH2)
    w2 = matrix(w2_ptr, h2, h1, H1, H2, H1, UP)
    w2_r = matrix(w2_ptr, h2, r1, H1, H2, H1, UP) if RIGHT else w2
    b2 = vector(b2_ptr, h2, H2)
    w3 = vector(w3_ptr, h2, H2)
    b3 = tl.load(b3_ptr).to(tl.float32)
    start, n = place(start_ptr, length_ptr, tl.program_id(0), batch)
    for i in range(0, tl.cdiv(batch - tl.program_id(0), tl.num_programs(0))):
        row = tl.program_id(0).to(tl.int64) + i * tl.num_programs(0)
        next_start, next_n = place(start_ptr, length_ptr, row + tl.num_programs(0), batch)  # known when it is its turn
        q = vector(q_ptr + row * D, d, D)
        a = vector(a_ptr + row * H1, h1, H1)
        a_r = vector(a_ptr + row * H1, r1, H1) if RIGHT else a
        first = first_layer(b_ptr, c_ptr, q, h1, d, b_stride, c_stride, H1, D, UP)
        first_r = first_layer(b_ptr, c_ptr, q, r1, d, b_stride, c_stride, H1, D, UP) if RIGHT else first
        total = tl.zeros((BD,), tl.float32)
        largest = float("-inf")
        weights = 0.0
        for t0 in range(0, n, BT):
            t = t0 + tl.arange(0, BT)
            k = steps(k_ptr, start, t, d, n, k_stride, D, UP)
            _, _, h = layers(k, first, first_r, a, a_r, w2, w2_r, b2, RIGHT, ACT, PRECISION)
            score = tl.sum(h * w3[None, :], axis=1)
            if SOFTMAX:  # as far as the steps go: a larger score shrinks what there is
                score = tl.where(t < n, score, float("-inf"))
                larger = tl.maximum(largest, tl.max(score, axis=0))
                shrink = tl.exp(largest - larger)
                weight = tl.exp(score - larger)
                weights = weights * shrink + tl.sum(weight, axis=0)
                total *= shrink
                largest = larger
            else:
                weight = tl.where(t < n, score + b3, 0.0)
            total += tl.sum(weight[:, None] * k.to(tl.float32), axis=0)
        if SOFTMAX:
            total = total / tl.where(n > 0, weights, 1.0)
        tl.store(out_ptr + row * D + d, total.to(out_ptr.dtype.element_ty), mask=d < D)
        start, n = next_start, next_n


# Steps at once, programs a multiprocessor (as many as maxnreg registers let run at a time), warps. The last is for wide
# layers, the last but one for float32.
PLANS: tuple[dict[str, int], ...] = (
    {"BT": 32, "PROGRAMS": 3, "num_warps": 4, "num_stages": 1, "maxnreg": 168},
    {"BT": 64, "PROGRAMS": 3, "num_warps": 4, "num_stages": 1, "maxnreg": 168},
    {"BT": 32, "PROGRAMS": 4, "num_warps": 4, "num_stages": 1, "maxnreg": 128},
    {"BT": 16, "PROGRAMS": 4, "num_warps": 4, "num_stages": 1, "maxnreg": 128},
    {"BT": 16, "PROGRAMS": 3, "num_warps": 4, "num_stages": 1, "maxnreg": 168},
    {"BT": 16, "PROGRAMS": 1, "num_warps": 8, "num_stages": 1},
)


def wide(shape: dict[str, int]) -> bool:
    """Whether the layers are much wider than 64 by 80 by 40, the size that plans were made for."""
    return (shape["LEFT"] + shape["RIGHT"]) * max(shape["BD"], shape["BH2"]) > 96 * 64


def _plan(x: Tensor, shape: dict[str, int]) -> dict[str, int]:
    return PLANS[-1] if wide(shape) else PLANS[0 if x.element_size() == 4 else 1]


def sizes(keys: Tensor, w2: Tensor) -> dict[str, int]:
    """Sizes, and blocks that hold them."""
    (h2, h1), d = w2.shape, keys.shape[1]
    left, right = block(h1), 0
    if left > 16 and (rest := block(h1 - left // 2)) < left // 2:
        left, right = left // 2, rest
    return {"D": d, "H1": h1, "H2": h2, "BD": block(d), "LEFT": left, "RIGHT": right, "BH2": block(h2)}


def by_rows(x: Tensor) -> Tensor:
    """x with rows of consecutive numbers, which may lie anywhere."""
    return x if x.stride(-1) == 1 or x.numel() == 0 else x.contiguous()


def din(
    a: Tensor, q: Tensor, keys: Tensor, starts: Tensor, lengths: Tensor, by_key: Tensor, by_product: Tensor,
    w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor, activation: str, softmax: bool, plan: dict[str, int] | None = None,
) -> Tensor:  # fmt: skip
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if out.numel():
        shape = sizes(keys, w2)
        options: dict[str, Any] = dict(plan or _plan(keys, shape))
        grid = (programs(keys, q.shape[0], options.pop("PROGRAMS")),)
        keys, by_key, by_product = by_rows(keys), by_rows(by_key), by_rows(by_product)
        _din[grid](
            a.contiguous(), q.contiguous(), keys, starts.contiguous(), lengths.contiguous(), by_key, by_product,
            w2.contiguous(), b2.contiguous(), w3.contiguous(), b3, out, q.shape[0], keys.stride(0), by_key.stride(0),
            by_product.stride(0), **shape, ACT=CODES[activation], SOFTMAX=softmax, PRECISION=precision(keys),
            UP=upcast(), **options,
        )  # fmt: skip
    return out
