"""Kernels of ``funcrec.kernels.dot``: a sample's Gram matrix lives in registers, its triangle alone in memory.

Both kernels read every field once and write every result once. A program handles several samples, one after the other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.dot import n_pairs
from funcrec.kernels.gpu.launch import block, precision, upcast


@triton.jit
def _rows(
    x_ptr,
    dense_ptr,
    b,
    fields,
    stride,
    d0,
    D: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    DENSE: tl.constexpr,
    UP: tl.constexpr,
):
    """Fields of sample b, components d0 to d0 + BD: ``[BN, BD]``, the dense row first, zeros from ``fields`` on."""
    n = tl.arange(0, BN)[:, None]
    d = d0 + tl.arange(0, BD)[None, :]
    at = x_ptr + b * stride + (n - DENSE) * D + d
    if DENSE:  # one load from two places: a sum of two would not be copied to shared memory in the background
        at = tl.where(n < 1, dense_ptr + b * D + d, at)
    x = tl.load(at, mask=(n < fields) & (d < D), other=0.0)
    return x.to(tl.float32) if UP else x


@triton.jit
def _triangle(N: tl.constexpr, BN: tl.constexpr, DIAGONAL: tl.constexpr):
    """Where (i, j) stands among the pairs, for both orders of i and j."""
    i = tl.arange(0, BN)[:, None]
    j = tl.arange(0, BN)[None, :]
    low = tl.minimum(i, j)
    high = tl.maximum(i, j)
    if DIAGONAL:
        return low * (2 * N - low + 1) // 2 + high - low
    return low * (2 * N - low - 1) // 2 + high - low - 1


@triton.jit
def _dots(
    x_ptr,
    y_ptr,
    dense_ptr,
    out_ptr,
    batch,
    x_stride,
    y_stride,
    N: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    DENSE: tl.constexpr,
    DIAGONAL: tl.constexpr,
    PAIR: tl.constexpr,
    SAMPLES: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    i = tl.arange(0, BN)[:, None]
    j = tl.arange(0, BN)[None, :]
    at = _triangle(N, BN, DIAGONAL)
    wanted = (i <= j) if DIAGONAL else (i < j)
    for s in tl.range(0, SAMPLES, num_stages=STAGES):
        b = tl.program_id(0).to(tl.int64) * SAMPLES + s
        fields = tl.where(b < batch, N, 0)
        gram = tl.zeros((BN, BN), tl.float32)
        for d0 in tl.static_range(0, D, BD):
            x = _rows(x_ptr, dense_ptr, b, fields, x_stride, d0, D, BN, BD, DENSE, UP)
            if PAIR:
                y = _rows(y_ptr, dense_ptr, b, fields, y_stride, d0, D, BN, BD, DENSE, UP)
                gram = tl.dot(x, tl.trans(y), gram, input_precision=PRECISION)
                gram = tl.dot(y, tl.trans(x), gram, input_precision=PRECISION)
            else:
                gram = tl.dot(x, tl.trans(x), gram, input_precision=PRECISION)
        row = out_ptr + b * (P + D * DENSE)
        tl.store(row + at, gram.to(out_ptr.dtype.element_ty), mask=wanted & (j < fields))
        if DENSE:
            for d0 in tl.static_range(0, D, BD):
                d = d0 + tl.arange(0, BD)
                copied = d < tl.where(b < batch, D, 0)
                tl.store(row + P + d, tl.load(dense_ptr + b * D + d, mask=copied), mask=copied)


@triton.jit
def _spread(
    c_ptr,
    y_ptr,
    dense_ptr,
    out_ptr,
    d_dense_ptr,
    batch,
    c_stride,
    y_stride,
    N: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    DENSE: tl.constexpr,
    DIAGONAL: tl.constexpr,
    SAMPLES: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    i = tl.arange(0, BN)[:, None]
    j = tl.arange(0, BN)[None, :]
    at = _triangle(N, BN, DIAGONAL)
    off = (i >= 0) if DIAGONAL else (i != j)
    n = tl.arange(0, BN)[:, None]
    for s in tl.range(0, SAMPLES, num_stages=STAGES):
        b = tl.program_id(0).to(tl.int64) * SAMPLES + s
        fields = tl.where(b < batch, N, 0)
        c = tl.load(c_ptr + b * c_stride + at, mask=off & (i < fields) & (j < fields), other=0.0)
        if UP:
            c = c.to(tl.float32)
        if DIAGONAL:
            c = tl.where(i == j, 2 * c, c)
        for d0 in tl.static_range(0, D, BD):
            d = d0 + tl.arange(0, BD)
            y = _rows(y_ptr, dense_ptr, b, fields, y_stride, d0, D, BN, BD, DENSE, UP)
            moved = tl.dot(c.to(y.dtype), y, input_precision=PRECISION)
            inside = (n < fields) & (d < D)[None, :]
            to = out_ptr + b * ((N - DENSE) * D) + (n - DENSE) * D + d[None, :]
            if DENSE:
                tail = tl.load(c_ptr + b * c_stride + P + d, mask=d < tl.where(b < batch, D, 0), other=0.0).to(
                    tl.float32
                )
                moved = tl.where(n < 1, moved + tail[None, :], moved)
                to = tl.where(n < 1, d_dense_ptr + b * D + d[None, :], to)
            tl.store(to, moved.to(out_ptr.dtype.element_ty), mask=inside)


def _strided(x: Tensor) -> Tensor:
    """x with rows of consecutive numbers: a slice of a larger batch of fields needs no copy."""
    rows = x.stride()[1:] == ((x.shape[2], 1) if x.dim() == 3 else (1,))
    return x if rows or x.numel() == 0 else x.contiguous()


def _plan(x: Tensor, n: int, adjoint: bool) -> dict[str, int]:
    """Block sizes, and samples a program: more of them hide the latency of loads only where one is little work."""
    bn, d = block(n), x.shape[2]
    plan = {"SAMPLES": 1, "STAGES": 1, "num_warps": 4 if adjoint else 1}
    if x.element_size() == 4 and not adjoint:
        plan = {"SAMPLES": 2, "STAGES": 2, "num_warps": 1}
    if bn > 32:
        plan["num_warps"] = 4 if bn == 64 else 8
    return {"BN": bn, "BD": min(block(d), 128 if bn <= 64 else 64), **plan}


def _forward(x: Tensor, y: Tensor, dense: Tensor | None, diagonal: bool, pair: bool) -> Tensor:
    batch, d = x.shape[0], x.shape[2]
    n = x.shape[1] + (dense is not None)
    p = n_pairs(n, diagonal)
    out = x.new_empty(batch, p + (0 if dense is None else d))
    if out.numel():
        x, y, plan = _strided(x), _strided(y), _plan(x, n, adjoint=False)
        row = out if dense is None else dense.contiguous()
        grid = (triton.cdiv(batch, plan["SAMPLES"]),)
        _dots[grid](
            x,
            y,
            row,
            out,
            batch,
            x.stride(0),
            y.stride(0),
            N=n,
            D=d,
            P=p,
            DENSE=int(dense is not None),
            DIAGONAL=diagonal,
            PAIR=pair,
            PRECISION=precision(x),
            UP=upcast(),
            **plan,
        )
    return out


def _adjoint(c: Tensor, y: Tensor, dense: Tensor | None, diagonal: bool) -> tuple[Tensor, Tensor]:
    batch, d = y.shape[0], y.shape[2]
    n = y.shape[1] + (dense is not None)
    out = torch.empty_like(y, memory_format=torch.contiguous_format)
    d_dense = y.new_empty(batch, 0 if dense is None else d)
    if out.numel():
        c, y, plan = _strided(c), _strided(y), _plan(y, n, adjoint=True)
        row = out if dense is None else dense.contiguous()
        grid = (triton.cdiv(batch, plan["SAMPLES"]),)
        _spread[grid](
            c,
            y,
            row,
            out,
            d_dense,
            batch,
            c.stride(0),
            y.stride(0),
            N=n,
            D=d,
            P=n_pairs(n, diagonal),
            DENSE=int(dense is not None),
            DIAGONAL=diagonal,
            PRECISION=precision(y),
            UP=upcast(),
            **plan,
        )
    return out, d_dense


def dots(x: Tensor, dense: Tensor | None, diagonal: bool) -> Tensor:
    return _forward(x, x, dense, diagonal, pair=False)


def pair(x: Tensor, y: Tensor, diagonal: bool) -> Tensor:
    return _forward(x, y, None, diagonal, pair=True)


def spread(c: Tensor, y: Tensor, diagonal: bool) -> Tensor:
    return _adjoint(c, y, None, diagonal)[0]


def dots_vjp(c: Tensor, x: Tensor, dense: Tensor | None, diagonal: bool) -> tuple[Tensor, Tensor]:
    return _adjoint(c, x, dense, diagonal)
