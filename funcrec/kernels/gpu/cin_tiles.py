"""How rows and weights of a CIN layer lie for its kernels, and the tiles that they share.

A row is a component of a sample: ``r = b D + d`` of ``x[b, h, d]``. Kernels take two columns h of x and a *chunk* of
columns f of y at a time. A tile needs a power of two, which 39 fields fill badly, so a chunk is cut in two powers of
two, 32 + 8, and a step has two tiles of columns, ``(h, f < F0)`` and ``(h, f >= F0)``: 64 and 16 wide.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Chunks(NamedTuple):
    """``number`` chunks of ``width`` columns, each held in tiles of ``f0`` and ``f1`` (0 where one is enough)."""

    number: int
    width: int
    f0: int
    f1: int

    @property
    def step(self) -> int:
        """Columns (h, f) of one step, padding included."""
        return 2 * (self.f0 + self.f1)


def chunks(n: int, most: int) -> Chunks:
    """Cut n columns into chunks of at most ``most``, of one width."""
    number = triton.cdiv(n, most)
    width = triton.cdiv(n, number)
    f0 = max(8, triton.next_power_of_2(width + 1) // 2)
    rest = max(0, width - f0)
    f1 = max(8, triton.next_power_of_2(rest)) if rest else 0
    return Chunks(number, width, 2 * f0, 0) if f1 == f0 else Chunks(number, width, f0, f1)


def parts(n: int, most: int) -> tuple[int, int, int]:
    """At most ``most`` <= 3 powers of two, 32 or more, in falling order, that hold n; 0 where fewer do.

    Not 16: a tile of 16 by 16 is too small for an asynchronous copy, and a program would wait for it at every step.
    """
    units = triton.cdiv(n, 32)
    while units.bit_count() > most:
        units += units & -units
    found = [32 << i for i in reversed(range(units.bit_length())) if units >> i & 1]
    first, second, third = (*found, 0, 0, 0)[:3]
    return first, second, third


@triton.jit
def _pack(
    w_ptr,
    to_ptr,
    size,
    o_stride,
    h_stride,
    f_stride,
    O: tl.constexpr,
    H: tl.constexpr,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    F0: tl.constexpr,
    F1: tl.constexpr,
    OP: tl.constexpr,
    O_FAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    STEP: tl.constexpr = 2 * (F0 + F1)
    PAIRS: tl.constexpr = (H + 1) // 2
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if O_FAST:
        o = at % OP
        j = at // OP % STEP
    else:
        j = at % STEP
        o = at // STEP % OP
    h = at // (STEP * OP) % PAIRS * 2
    chunk = at // (STEP * OP * PAIRS)
    f = j % F0
    h += j // F0
    if F1:
        f = tl.where(j < 2 * F0, f, F0 + (j - 2 * F0) % F1)
        h = tl.where(j < 2 * F0, h, h - j // F0 + (j - 2 * F0) // F1)
    there = (f < WIDTH) & (chunk * WIDTH + f < F) & (h < H) & (o < O)
    f += chunk * WIDTH
    w = tl.load(w_ptr + o * o_stride + h * h_stride + f * f_stride, mask=there & (at < size), other=0.0)
    tl.store(to_ptr + at, w, mask=at < size)


def pack(w: Tensor, cut: Chunks, o_padded: int, o_fast: bool) -> Tensor:
    """Weights ``[O, H, F]`` of any strides, as ``[chunks, pairs of h, columns of a step, o]`` with zeros for padding.

    ``o_fast``: whether o is the fastest; else it stands before the columns.
    """
    o, h, f = w.shape
    size = cut.number * triton.cdiv(h, 2) * cut.step * o_padded
    to = w.new_empty(size)
    _pack[(triton.cdiv(size, 1024),)](
        w,
        to,
        size,
        w.stride(0),
        w.stride(1),
        w.stride(2),
        O=o,
        H=h,
        F=f,
        WIDTH=cut.width,
        F0=cut.f0,
        F1=cut.f1,
        OP=o_padded,
        O_FAST=o_fast,
        BLOCK=1024,
    )
    return to


@triton.jit
def _column(row, at, there, D: tl.constexpr, UP: tl.constexpr):
    """Column ``at`` of the rows: ``[BM]``."""
    x = tl.load(row + at * D, mask=there, other=0.0)
    return x.to(tl.float32) if UP else x


@triton.jit
def _columns(row, at, there, N: tl.constexpr, D: tl.constexpr, UP: tl.constexpr):
    """Columns ``at`` of the rows: ``[BM, K]``, zeros from N on."""
    x = tl.load(row[:, None] + (at * D)[None, :], mask=there[:, None] & (at < N)[None, :], other=0.0)
    return x.to(tl.float32) if UP else x


@triton.jit
def _pin(x, PRECISION: tl.constexpr):
    """x, held in the registers where the tensor cores leave their sums, which are those where they take operands from.

    The compiler keeps a tile as it was loaded, and would send every product with it through shared memory.
    Adding a product of zeros to it is exact, costs one instruction, and leaves it where it is wanted.
    """
    if x.dtype == tl.float32 and PRECISION == "ieee":  # no tensor cores
        return x
    zeros = tl.zeros((x.shape[0], 16), x.dtype)
    return tl.dot(zeros, tl.zeros((16, x.shape[1]), x.dtype), x.to(tl.float32)).to(x.dtype)


@triton.jit
def _times(x, y):
    """``x y``, rounded to their dtype. 16-bit numbers go two at a time: left alone, the compiler keeps y unpacked."""
    if x.dtype == tl.float32:
        return x * y
    x, y = tl.broadcast(x, y)
    MUL: tl.constexpr = "mul.rn.bf16x2 $0, $1, $2;" if x.dtype == tl.bfloat16 else "mul.rn.f16x2 $0, $1, $2;"
    return tl.inline_asm_elementwise(MUL, "=r,r,r", [x, y], dtype=x.dtype, is_pure=True, pack=2)


def rows(x: Tensor) -> Tensor:
    """x with components in order and columns after them; a batch of any stride needs no copy."""
    d = x.shape[2]
    regular = (x.shape[1] == 1 or x.stride(1) == d) and (d == 1 or x.stride(2) == 1)
    return x if regular or x.numel() == 0 else x.contiguous()
