"""Both gradients of ``<c, bilinear(x, y, W)>`` with respect to x and y, weights first.

``G_h[r, f] = Σ_o c[r, o] W[o, h, f]`` is one product of matrices for a column h; then ``dx[r, h] = Σ_f G_h y[r, f]``
and ``dy[r, f] = Σ_h G_h x[r, h]``, while G_h is in registers: half the work of two bilinears. The first alone is a
bilinear form as well, and the cheaper way to one whose first operand is wide and whose result is narrow.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.cin_tiles import Chunks, _column, _columns, _pin, chunks, pack, parts, rows
from funcrec.kernels.gpu.launch import precision, upcast


class Plan(NamedTuple):
    """Rows of a program, warps, steps whose weights are under way, registers a thread, into how many parts o is cut,
    and whether c stays in registers, not in shared memory."""

    bm: int
    warps: int = 8
    stages: int = 3
    registers: int | None = None
    parts: int = 3
    pinned: bool = False


@triton.jit
def _against(
    c0, c1, c2, w, C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, O_STRIDE: tl.constexpr, PRECISION: tl.constexpr
):
    """``Σ_o c[r, o] w[o, j]``; ``w`` points to the columns j at o = 0."""
    at = w + tl.arange(0, C0)[:, None] * O_STRIDE
    g = tl.dot(c0, tl.load(at).to(c0.dtype), input_precision=PRECISION)
    if C1:
        at = w + (C0 + tl.arange(0, C1))[:, None] * O_STRIDE
        g = tl.dot(c1, tl.load(at).to(c1.dtype), g, input_precision=PRECISION)
    if C2:
        at = w + (C0 + C1 + tl.arange(0, C2))[:, None] * O_STRIDE
        g = tl.dot(c2, tl.load(at).to(c2.dtype), g, input_precision=PRECISION)
    return g


@triton.jit
def _contract(
    c_ptr,
    x_ptr,
    y_ptr,
    w_ptr,
    dx_ptr,
    dy_ptr,
    n_rows,
    c_stride,
    x_stride,
    y_stride,
    H: tl.constexpr,
    F: tl.constexpr,
    O: tl.constexpr,
    D: tl.constexpr,
    F0: tl.constexpr,
    F1: tl.constexpr,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    J_STRIDE: tl.constexpr,
    O_STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BOTH: tl.constexpr,
    PINNED: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    there = r < n_rows
    b = (r // D).to(tl.int64)
    d = r % D
    c_row = c_ptr + b * c_stride + d
    c0 = _columns(c_row, tl.arange(0, C0), there, O, D, UP)
    c1 = c0
    c2 = c0
    if C1:
        c1 = _columns(c_row, C0 + tl.arange(0, C1), there, O, D, UP)
    if C2:
        c2 = _columns(c_row, C0 + C1 + tl.arange(0, C2), there, O, D, UP)
    if PINNED:
        c0 = _pin(c0, PRECISION)
        if C1:
            c1 = _pin(c1, PRECISION)
        if C2:
            c2 = _pin(c2, PRECISION)
    y_row = y_ptr + b * y_stride + d
    j0 = tl.arange(0, 2 * F0)
    first0 = (j0 < F0)[None, :]
    y0 = _pin(_columns(y_row, j0 % F0, there, F, D, UP), PRECISION)
    if F1:
        j1 = tl.arange(0, 2 * F1)
        first1 = (j1 < F1)[None, :]
        y1 = _pin(_columns(y_row, F0 + j1 % F1, there, F, D, UP), PRECISION)
    if BOTH:
        x_row = x_ptr + b * x_stride + d
        dy0 = tl.zeros((BM, 2 * F0), tl.float32)
        if F1:
            dy1 = tl.zeros((BM, 2 * F1), tl.float32)
    to = dx_ptr + b * (H * D) + d
    for h in range(0, H, 2):
        if BOTH:
            xa = _column(x_row, h, there, D, UP).to(tl.float32)
            xb = _column(x_row, h + 1, there & (h + 1 < H), D, UP).to(tl.float32)
        g = _against(c0, c1, c2, w_ptr + (j0 * J_STRIDE)[None, :], C0, C1, C2, O_STRIDE, PRECISION)
        p = g * y0.to(tl.float32)
        dxa = tl.sum(tl.where(first0, p, 0.0), axis=1)
        dxb = tl.sum(tl.where(first0, 0.0, p), axis=1)
        if BOTH:
            dy0 += g * tl.where(first0, xa[:, None], xb[:, None])
        if F1:
            g = _against(c0, c1, c2, w_ptr + ((2 * F0 + j1) * J_STRIDE)[None, :], C0, C1, C2, O_STRIDE, PRECISION)
            p = g * y1.to(tl.float32)
            dxa += tl.sum(tl.where(first1, p, 0.0), axis=1)
            dxb += tl.sum(tl.where(first1, 0.0, p), axis=1)
            if BOTH:
                dy1 += g * tl.where(first1, xa[:, None], xb[:, None])
        tl.store(to + h * D, dxa.to(dx_ptr.dtype.element_ty), mask=there)
        tl.store(to + h * D + D, dxb.to(dx_ptr.dtype.element_ty), mask=there & (h + 1 < H))
        w_ptr += 2 * (F0 + F1) * (C0 + C1 + C2)
    if BOTH:
        to = dy_ptr + b * (F * D) + d
        _store_pairs(to, dy0, 0, there, F0, F, D, BM)
        if F1:
            _store_pairs(to, dy1, F0, there, F1, F, D, BM)


@triton.jit
def _store_pairs(to, sums, first, there, N: tl.constexpr, F: tl.constexpr, D: tl.constexpr, BM: tl.constexpr):
    """Add what two columns h gave, ``[BM, 2 N]``, and write columns ``first`` to ``first + N``."""
    f = first + tl.arange(0, N)
    both = tl.sum(tl.reshape(sums, (BM, 2, N)), axis=1)
    at = to[:, None] + (f * D)[None, :]
    tl.store(at, both.to(to.dtype.element_ty), mask=there[:, None] & (f < F)[None, :])


# Candidates, by bytes of a number: every one is right, which is fastest is measured.
PLANS = {
    2: (
        Plan(128),
        Plan(128, parts=1),
        Plan(128, pinned=True),
        Plan(128, pinned=True, parts=1),
        Plan(128, stages=2),
        Plan(64, warps=4, stages=2),
        Plan(64, warps=4, stages=2, pinned=True),
    ),
    4: (Plan(64, warps=4, stages=2), Plan(64, stages=2), Plan(32, warps=4, stages=2)),
}


def plan_for(c: Tensor) -> Plan:
    return Plan(128) if c.element_size() == 2 else Plan(64, warps=4, stages=2)


def takes(c: Tensor, f: int) -> bool:
    """Whether c and y of a program's rows fit, and tensor cores do the work: without them it is not worth it."""
    if c.element_size() == 4 and precision(c) == "ieee":
        return False
    return c.shape[1] <= (256 if c.element_size() == 2 else 224) and f <= 40


def contract(c: Tensor, x: Tensor | None, y: Tensor, w: Tensor, plan: Plan | None = None) -> tuple[Tensor, Tensor]:
    """c ``[b, o, d]``, x ``[b, h, d]``, y ``[b, f, d]``, w ``[o, h, f]`` of any strides, to dx ``[b, h, d]`` and dy
    ``[b, f, d]``, which is not computed, and empty, without x."""
    (batch, o, d), (_, h, f) = c.shape, w.shape
    dx, dy = c.new_empty(batch, h, d), c.new_empty(0 if x is None else batch, f, d)
    if dx.numel() == 0:
        return dx, dy
    c, y = rows(c), rows(y)
    both, x = x is not None, c if x is None else rows(x)
    bm, warps, stages, registers, most, pinned = plan or plan_for(c)
    cut: Chunks = chunks(f, 40)
    cs = parts(o, most)
    # The tensor cores read 32-bit operands along the sum only, here over o, 16-bit ones either way.
    o_fast = c.element_size() == 4
    _contract[(triton.cdiv(batch * d, bm),)](
        c,
        x,
        y,
        pack(w, cut, sum(cs), o_fast),
        dx,
        dy,
        batch * d,
        c.stride(0),
        x.stride(0),
        y.stride(0),
        H=h,
        F=f,
        O=o,
        D=d,
        F0=cut.f0,
        F1=cut.f1,
        C0=cs[0],
        C1=cs[1],
        C2=cs[2],
        J_STRIDE=sum(cs) if o_fast else 1,
        O_STRIDE=1 if o_fast else cut.step,
        BM=bm,
        BOTH=both,
        PINNED=pinned,
        PRECISION=precision(c),
        UP=upcast(),
        num_warps=warps,
        num_stages=stages,
        **({"maxnreg": registers} if registers else {}),
    )
    return dx, dy
