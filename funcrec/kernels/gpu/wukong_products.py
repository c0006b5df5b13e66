"""Kernels of ``wukong.products``: the fields of a sample are read once, the compressed fields stay on the chip."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.launch import block, precision, programs, upcast


@triton.jit
def _tile(ptr, ROWS: tl.constexpr, COLS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, UP: tl.constexpr):
    """``[BR, BC]`` of a row-major ``[ROWS, COLS]``, zeros outside."""
    r = tl.arange(0, BR)[:, None]
    c = tl.arange(0, BC)[None, :]
    x = tl.load(ptr + r * COLS + c, mask=(r < ROWS) & (c < COLS), other=0.0)
    return x.to(tl.float32) if UP else x


@triton.jit
def _products(
    x_ptr,
    w_ptr,
    out_ptr,
    batch,
    N: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    w = _tile(w_ptr, N, K, BN, BK, UP)
    n = tl.arange(0, BN)[:, None]
    k = tl.arange(0, BK)[None, :]
    for b in range(tl.program_id(0).to(tl.int64), batch, tl.num_programs(0)):
        x = _tile(x_ptr + b * N * D, N, D, BN, BD, UP)
        compressed = tl.dot(tl.trans(x), w, input_precision=PRECISION).to(x.dtype)
        products = tl.dot(x, compressed, input_precision=PRECISION)
        to = out_ptr + b * N * K + n * K + k
        tl.store(to, products.to(out_ptr.dtype.element_ty), mask=(n < N) & (k < K))


@triton.jit
def _products_vjp(
    c_ptr,
    x_ptr,
    w_ptr,
    d_x_ptr,
    d_w_ptr,
    batch,
    N: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    w = _tile(w_ptr, N, K, BN, BK, UP)
    n = tl.arange(0, BN)[:, None]
    k = tl.arange(0, BK)[None, :]
    d = tl.arange(0, BD)[None, :]
    d_w = tl.zeros((BN, BK), tl.float32)
    for b in range(tl.program_id(0).to(tl.int64), batch, tl.num_programs(0)):
        x = _tile(x_ptr + b * N * D, N, D, BN, BD, UP)
        c = _tile(c_ptr + b * N * K, N, K, BN, BK, UP)
        compressed = tl.dot(tl.trans(x), w, input_precision=PRECISION).to(x.dtype)
        d_compressed = tl.dot(tl.trans(x), c, input_precision=PRECISION).to(x.dtype)
        d_x = tl.dot(c, tl.trans(compressed), input_precision=PRECISION)
        d_x = tl.dot(w, tl.trans(d_compressed), d_x, input_precision=PRECISION)
        tl.store(d_x_ptr + b * N * D + n * D + d, d_x.to(d_x_ptr.dtype.element_ty), mask=(n < N) & (d < D))
        d_w = tl.dot(x, d_compressed, d_w, input_precision=PRECISION)
    tl.store(d_w_ptr + tl.program_id(0) * N * K + n * K + k, d_w, mask=(n < N) & (k < K))


PLANS = tuple(
    {"num_warps": w, "num_stages": s, "PER_SM": p} for w, s, p in ((4, 2, 4), (4, 2, 2), (8, 2, 2), (4, 3, 3))
)


def _plan(plan: dict[str, int] | None, x: Tensor, weight: Tensor) -> tuple[dict[str, int], int]:
    plan = dict(plan or PLANS[0])
    per_sm = plan.pop("PER_SM")
    (_, n, d), k = x.shape, weight.shape[1]
    sizes = {"N": n, "D": d, "K": k, "BN": block(n), "BD": block(d), "BK": block(k)}
    return {**sizes, **plan}, programs(x, x.shape[0], per_sm)


def products(x: Tensor, weight: Tensor, plan: dict[str, int] | None = None) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    batch, n, _ = x.shape
    out = x.new_empty(batch, n, weight.shape[1])
    if out.numel():
        sizes, grid = _plan(plan, x, weight)
        _products[(grid,)](x, weight, out, batch, PRECISION=precision(x), UP=upcast(), **sizes)
    return out


def products_vjp(c: Tensor, x: Tensor, weight: Tensor, plan: dict[str, int] | None = None) -> tuple[Tensor, Tensor]:
    c, x, weight = c.contiguous(), x.contiguous(), weight.contiguous()
    sizes, grid = _plan(plan, x, weight)
    d_x = torch.empty_like(x)
    d_weight = torch.zeros(grid if x.numel() else 1, *weight.shape, dtype=torch.float32, device=x.device)
    if x.numel():
        arguments = (c, x, weight, d_x, d_weight, x.shape[0])
        _products_vjp[(grid,)](*arguments, PRECISION=precision(x), UP=upcast(), **sizes)
    return d_x, d_weight.sum(0).to(weight.dtype)
