"""``out[r, o] = Σ_{h,f} W[o, h, f] x[r, h] y[r, f]`` as one product of matrices, its left operand formed in registers.

The left operand is ``[rows, H F]``, the array that must not exist. A program keeps the columns y of its rows in
registers; at each step it reads two columns of x, multiplies, and hands the products to the tensor cores as they are,
while the weights of the next steps arrive. Products are rounded to the dtype of x and y, as those of the einops form.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.cin_tiles import _column, _columns, _pin, _times, chunks, pack, rows
from funcrec.kernels.gpu.launch import block, precision, upcast


class Plan(NamedTuple):
    """Rows and outputs of a program, warps, steps whose weights are under way, registers a thread (None: any)."""

    bm: int
    bo: int
    warps: int = 8
    stages: int = 3
    registers: int | None = None


@triton.jit
def _products(
    x_ptr,
    y_ptr,
    w_ptr,
    out_ptr,
    n_rows,
    x_stride,
    y_stride,
    H: tl.constexpr,
    F: tl.constexpr,
    O: tl.constexpr,
    D: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    F0: tl.constexpr,
    F1: tl.constexpr,
    J_STRIDE: tl.constexpr,
    O_STRIDE: tl.constexpr,
    STEP: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    there = r < n_rows
    b = (r // D).to(tl.int64)
    d = r % D
    x_row = x_ptr + b * x_stride + d
    y_row = y_ptr + b * y_stride + d
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    j0 = tl.arange(0, 2 * F0)
    first0 = (j0 < F0)[None, :]
    w0 = w_ptr + j0[:, None] * J_STRIDE + o[None, :] * O_STRIDE
    if F1:
        j1 = tl.arange(0, 2 * F1)
        first1 = (j1 < F1)[None, :]
        w1 = w_ptr + (2 * F0 + j1)[:, None] * J_STRIDE + o[None, :] * O_STRIDE
    sums = tl.zeros((BM, BO), tl.float32)
    for chunk in range(CHUNKS):
        f = chunk * WIDTH
        y0 = _pin(_columns(y_row, f + j0 % F0, there, F, D, UP), PRECISION)
        if F1:
            y1 = _pin(_columns(y_row, f + F0 + j1 % F1, there, F, D, UP), PRECISION)
        xa = _column(x_row, 0, there, D, UP)
        xb = _column(x_row, 1, there & (H > 1), D, UP)
        for h in range(0, H, 2):
            # Read ahead: a column of x comes from far, and a step is short.
            next_a = _column(x_row, h + 2, there & (h + 2 < H), D, UP)
            next_b = _column(x_row, h + 3, there & (h + 3 < H), D, UP)
            products = _times(tl.where(first0, xa[:, None], xb[:, None]), y0)
            w = tl.load(w0)
            sums = tl.dot(products, w.to(products.dtype), sums, input_precision=PRECISION)
            w0 += STEP
            if F1:
                products = _times(tl.where(first1, xa[:, None], xb[:, None]), y1)
                w = tl.load(w1)
                sums = tl.dot(products, w.to(products.dtype), sums, input_precision=PRECISION)
                w1 += STEP
            xa = next_a
            xb = next_b
    to = (out_ptr + b * (O * D) + d)[:, None] + (o * D)[None, :]
    tl.store(to, sums.to(out_ptr.dtype.element_ty), mask=there[:, None] & (o < O)[None, :])


# Candidates, by bytes of a number: every one is right, which is fastest is measured.
PLANS = {
    2: (
        Plan(128, 128, registers=128),
        Plan(128, 128),
        Plan(128, 128, stages=4),
        Plan(128, 256),
        Plan(128, 256, stages=4),
        Plan(64, 256, warps=4),
        Plan(256, 128),
    ),
    4: (Plan(128, 128, stages=2), Plan(128, 128), Plan(128, 64), Plan(64, 128, warps=4), Plan(64, 64)),
}


def plan_for(x: Tensor, outputs: int) -> Plan:
    if x.element_size() == 4 and precision(x) == "ieee":
        return Plan(128, min(block(outputs), 64), stages=2)
    if x.element_size() == 4:
        return Plan(128, min(block(outputs), 128), stages=2)
    bo = min(block(outputs), 128 if triton.cdiv(outputs, 128) % 2 else 256)
    return Plan(128, bo, registers=128 if bo <= 128 else None)


def products(x: Tensor, y: Tensor, w: Tensor, plan: Plan | None = None) -> Tensor:
    """x ``[b, h, d]``, y ``[b, f, d]``, w ``[o, h, f]`` of any strides, to ``[b, o, d]``."""
    (batch, h, d), f, o = x.shape, y.shape[1], w.shape[0]
    out = x.new_empty(batch, o, d)
    if out.numel() == 0:
        return out
    x, y = rows(x), rows(y)
    cut = chunks(f, 40)  # what the registers hold
    bm, bo, warps, stages, registers = plan or plan_for(x, o)
    registers = registers if cut.number == 1 else None  # two loops need more
    o_padded = triton.cdiv(o, bo) * bo
    # The tensor cores read 32-bit operands along the sum only, 16-bit ones either way.
    o_fast = x.element_size() == 2
    _products[(triton.cdiv(batch * d, bm), o_padded // bo)](
        x,
        y,
        pack(w, cut, o_padded, o_fast),
        out,
        batch * d,
        x.stride(0),
        y.stride(0),
        H=h,
        F=f,
        O=o,
        D=d,
        CHUNKS=cut.number,
        WIDTH=cut.width,
        F0=cut.f0,
        F1=cut.f1,
        J_STRIDE=o_padded if o_fast else 1,
        O_STRIDE=1 if o_fast else cut.step,
        STEP=cut.step * o_padded,
        BM=bm,
        BO=bo,
        PRECISION=precision(x),
        UP=upcast(),
        num_warps=warps,
        num_stages=stages,
        **({"maxnreg": registers} if registers else {}),
    )
    return out
