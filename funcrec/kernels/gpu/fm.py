"""Kernels of ``funcrec.kernels.fm``: several samples a program, every field read once and added up where it was read.

A thread keeps its components and walks over the fields, as many at a time as fill a line of memory: what is left to add
up between threads at the end is small.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.launch import block


@triton.jit
def _fm2(x_ptr, y_ptr, out_ptr, batch, x_stride, y_stride, N: tl.constexpr, D: tl.constexpr, BB: tl.constexpr,
         BN: tl.constexpr, BD: tl.constexpr, SQUARE: tl.constexpr):  # fmt: skip
    """``(Σ_i x_i)(Σ_i y_i) − Σ_i x_i y_i``; with SQUARE half of it, of x and x."""
    first = tl.program_id(0).to(tl.int64) * BB  # for numbers of elements above 2^31
    b = first + tl.arange(0, BB)[:, None, None]
    n = tl.arange(0, BN)[None, :, None]
    d = tl.arange(0, BD)[None, None, :]
    there = (b < batch) & (d < D)
    sum_x = tl.zeros((BB, BN, BD), tl.float32)
    sum_y = tl.zeros((BB, BN, BD), tl.float32)
    products = tl.zeros((BB, BN, BD), tl.float32)
    for start in tl.range(0, N, BN, loop_unroll_factor=4):
        i = start + n
        x = tl.load(x_ptr + b * x_stride + i * D + d, mask=there & (i < N), other=0.0).to(tl.float32)
        sum_x += x
        if SQUARE:
            products += x * x
        else:
            y = tl.load(y_ptr + b * y_stride + i * D + d, mask=there & (i < N), other=0.0).to(tl.float32)
            sum_y += y
            products += x * y
    total = tl.sum(sum_x, axis=1)
    if SQUARE:
        out = 0.5 * (total * total - tl.sum(products, axis=1))
    else:
        out = total * tl.sum(sum_y, axis=1) - tl.sum(products, axis=1)
    b = first + tl.arange(0, BB)[:, None]
    d = tl.arange(0, BD)[None, :]
    tl.store(out_ptr + b * D + d, out.to(out_ptr.dtype.element_ty), mask=(b < batch) & (d < D))


@triton.jit
def _spread(c_ptr, y_ptr, out_ptr, batch, c_stride, y_stride, N: tl.constexpr, D: tl.constexpr, BB: tl.constexpr,
            BN: tl.constexpr, BD: tl.constexpr, HOLD: tl.constexpr):  # fmt: skip
    """``c (Σ_j y_j − y_i)``; without HOLD, y is read a second time, from a cache if there is room."""
    b = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB)[:, None, None]
    n = tl.arange(0, BN)[None, :, None]
    d = tl.arange(0, BD)[None, None, :]
    there = (b < batch) & (d < D)
    at = y_ptr + b * y_stride + d
    to = out_ptr + b * (N * D) + d
    total = tl.zeros((BB, BN, BD), tl.float32)
    c = tl.load(c_ptr + b * c_stride + d, mask=there, other=0.0).to(tl.float32)
    if HOLD:
        held = ()
        for start in tl.static_range(0, N, BN):
            y = tl.load(at + (start + n) * D, mask=there & (start + n < N), other=0.0)
            total += y.to(tl.float32)
            held = held + (y,)  # type: ignore[assignment]  # noqa: RUF005
        others = tl.sum(total, axis=1)[:, None, :]
        for start in tl.static_range(0, N, BN):
            out = c * (others - held[start // BN].to(tl.float32))
            tl.store(to + (start + n) * D, out.to(out_ptr.dtype.element_ty), mask=there & (start + n < N))
    else:
        for start in tl.range(0, N, BN, loop_unroll_factor=4):
            total += tl.load(at + (start + n) * D, mask=there & (start + n < N), other=0.0).to(tl.float32)
        others = tl.sum(total, axis=1)[:, None, :]
        for start in tl.range(0, N, BN, loop_unroll_factor=4):
            y = tl.load(at + (start + n) * D, mask=there & (start + n < N), other=0.0).to(tl.float32)
            out = c * (others - y)
            tl.store(to + (start + n) * D, out.to(out_ptr.dtype.element_ty), mask=there & (start + n < N))


PLANS = (  # bytes of neighbouring fields read at a time, warps a program, vectors of 16 bytes a thread and step
    {"line": 128, "warps": 4, "vectors": 1},
    {"line": 128, "warps": 8, "vectors": 1},
    {"line": 128, "warps": 4, "vectors": 2},
    {"line": 64, "warps": 4, "vectors": 1},
    {"line": 256, "warps": 4, "vectors": 1},
)
HELD = 320
"""Bytes of the fields that a thread of the adjoint has registers for."""


def _plan(x: Tensor, plan: dict[str, int] | None, adjoint: bool = False) -> dict[str, int]:
    n, d = x.shape[1:]
    if plan is None:
        plan = PLANS[0 if x.itemsize == 4 else 4 if adjoint else 2]
    bd = block(d, 1)
    bn = min(max(plan["line"] // (bd * x.itemsize), 1), block(n, 1))
    step = 16 * 32 * plan["warps"] * plan["vectors"]  # bytes that a program reads at a time
    return {"BB": max(step // (bn * bd * x.itemsize), 1), "BN": bn, "BD": bd, "num_warps": plan["warps"]}


def _strided(x: Tensor) -> Tensor:
    """x with samples of consecutive numbers: a slice of a larger batch of fields needs no copy."""
    rows = x.stride()[1:] == ((x.shape[2], 1) if x.dim() == 3 else (1,))
    return x if rows or x.numel() == 0 else x.contiguous()


def _forward(x: Tensor, y: Tensor, square: bool, plan: dict[str, int] | None) -> Tensor:
    batch, n, d = x.shape
    out = x.new_empty(batch, d)
    if out.numel():
        x, y, options = _strided(x), _strided(y), _plan(x, plan)
        grid = (triton.cdiv(batch, options["BB"]),)
        _fm2[grid](x, y, out, batch, x.stride(0), y.stride(0), N=n, D=d, SQUARE=square, **options)
    return out


def fm(x: Tensor, plan: dict[str, int] | None = None) -> Tensor:
    return _forward(x, x, square=True, plan=plan)


def fm2(x: Tensor, y: Tensor, plan: dict[str, int] | None = None) -> Tensor:
    return _forward(x, y, square=False, plan=plan)


def fm_spread(c: Tensor, y: Tensor, plan: dict[str, int] | None = None) -> Tensor:
    batch, n, d = y.shape
    out = torch.empty_like(y, memory_format=torch.contiguous_format)
    if out.numel():
        c, y, options = _strided(c), _strided(y), _plan(y, plan, adjoint=True)
        step = options["BB"] * options["BN"] * options["BD"] * y.itemsize // (32 * options["num_warps"])
        hold = step * triton.cdiv(n, options["BN"]) <= HELD
        grid = (triton.cdiv(batch, options["BB"]),)
        _spread[grid](c, y, out, batch, c.stride(0), y.stride(0), N=n, D=d, HOLD=hold, **options)
    return out
