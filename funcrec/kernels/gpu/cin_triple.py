"""``out[o, h, f] = Σ_r c[r, o] x[r, h] y[r, f]``, the gradient of the weights, as one product over the rows.

The left operand, ``[H F, rows]``, is formed in registers, for a tile of columns h by columns f. Rows are cut into
ranges, one a program, whose sums are added in a fixed order afterwards: results do not change from run to run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.cin_tiles import _times, rows
from funcrec.kernels.gpu.launch import block, precision, upcast


class Plan(NamedTuple):
    """Columns h and f, outputs and rows of a step, warps, steps under way, registers a thread, programs to launch."""

    bh: int
    bf: int
    bo: int
    bk: int
    warps: int = 8
    stages: int = 3
    registers: int | None = None
    programs: int = 264


@triton.jit
def _triple(
    c_ptr,
    x_ptr,
    y_ptr,
    out_ptr,
    n_rows,
    rows_each,
    c_stride,
    x_stride,
    y_stride,
    H: tl.constexpr,
    F: tl.constexpr,
    O: tl.constexpr,
    D: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    BH: tl.constexpr,
    BF: tl.constexpr,
    BO: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    F_TILES: tl.constexpr = (F + BF - 1) // BF
    h0 = tl.program_id(0) // F_TILES * BH
    f0 = tl.program_id(0) % F_TILES * BF
    if SYMMETRIC and f0 + BF <= h0:  # below the diagonal: the caller takes the other half
        return
    h = h0 + tl.arange(0, BH)
    f = f0 + tl.arange(0, BF)
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    start = tl.program_id(2) * rows_each
    sums = tl.zeros((BH * BF, BO), tl.float32)
    for first in range(start, tl.minimum(start + rows_each, n_rows), BK):
        r = first + tl.arange(0, BK)
        there = r < n_rows
        b = (r // D).to(tl.int64)
        d = r % D
        x_at = x_ptr + (b * x_stride + d)[None, :] + (h * D)[:, None]
        y_at = y_ptr + (b * y_stride + d)[None, :] + (f * D)[:, None]
        c_at = c_ptr + (b * c_stride + d)[:, None] + (o * D)[None, :]
        x = tl.load(x_at, mask=there[None, :] & (h < H)[:, None], other=0.0)
        y = tl.load(y_at, mask=there[None, :] & (f < F)[:, None], other=0.0)
        c = tl.load(c_at, mask=there[:, None] & (o < O)[None, :], other=0.0)
        if UP:
            x = x.to(tl.float32)
            y = y.to(tl.float32)
            c = c.to(tl.float32)
        products = tl.reshape(_times(x[:, None, :], y[None, :, :]), (BH * BF, BK))
        sums = tl.dot(products, c, sums, input_precision=PRECISION)
    m = tl.arange(0, BH * BF)
    hm = h0 + m // BF
    fm = f0 + m % BF
    to = out_ptr + tl.program_id(2).to(tl.int64) * (O * H * F) + (hm * F + fm)[:, None] + (o * (H * F))[None, :]
    tl.store(to, sums, mask=((hm < H) & (fm < F))[:, None] & (o < O)[None, :])


# Candidates, by bytes of a number: every one is right, which is fastest is measured.
PLANS = {
    2: (
        Plan(16, 8, 128, 64, registers=128),
        Plan(16, 8, 128, 64, stages=4),
        Plan(16, 8, 128, 128),
        Plan(8, 16, 128, 64),
        Plan(32, 8, 128, 64, programs=132),
        Plan(16, 8, 256, 64, programs=132),
        Plan(16, 8, 256, 64, stages=4, programs=132),
    ),
    4: (Plan(16, 8, 128, 32), Plan(16, 8, 128, 32, stages=4), Plan(16, 8, 64, 32), Plan(8, 8, 128, 32, warps=4)),
}


def plan_for(x: Tensor, outputs: int) -> Plan:
    if x.element_size() == 4:
        cores = precision(x) == "tf32"
        return Plan(16, 8, min(block(outputs), 128), 32 if cores else 16, stages=3 if cores else 2)
    wide = triton.cdiv(outputs, 128) % 2 == 0
    return Plan(16, 8, 256, 64, programs=132) if wide else Plan(16, 8, min(block(outputs), 128), 64, registers=128)


def triple(c: Tensor, x: Tensor, y: Tensor, symmetric: bool = False, plan: Plan | None = None) -> Tensor:
    """c ``[b, o, d]``, x ``[b, h, d]``, y ``[b, f, d]`` to ``[o, h, f]``. ``symmetric``: x is y, so half is enough."""
    (batch, o, d), h, f = c.shape, x.shape[1], y.shape[1]
    n = batch * d
    if n == 0 or o * h * f == 0:
        return c.new_zeros(o, h, f)
    c, x, y = rows(c), rows(x), rows(y)
    bh, bf, bo, bk, warps, stages, registers, programs = plan or plan_for(x, o)
    tiles = [(i, j) for i in range(0, h, bh) for j in range(0, f, bf)]
    work = sum(not symmetric or j + bf > i for i, j in tiles) * triton.cdiv(o, bo)
    rows_each = triton.cdiv(triton.cdiv(n, max(1, programs // work)), bk) * bk
    ranges = triton.cdiv(n, rows_each)
    partial = c.new_empty(ranges, o, h, f, dtype=torch.float32)
    _triple[(len(tiles), triton.cdiv(o, bo), ranges)](
        c,
        x,
        y,
        partial,
        n,
        rows_each,
        c.stride(0),
        x.stride(0),
        y.stride(0),
        H=h,
        F=f,
        O=o,
        D=d,
        SYMMETRIC=symmetric,
        BH=bh,
        BF=bf,
        BO=bo,
        BK=bk,
        PRECISION=precision(x),
        UP=upcast(),
        num_warps=warps,
        num_stages=stages,
        **({"maxnreg": registers} if registers else {}),
    )
    total = partial.sum(0) if ranges > 1 else partial[0]
    if symmetric:
        upper = total.triu()
        total = upper + total.triu(1).mT
    return total.to(c.dtype)
