"""Sums over programs of the gradients of weights, in float32 and the same in every run.

Two programs share a place in memory: two numbers have one sum, whichever comes first. A second kernel adds up the
places in order. The turn of a place says whether it is untouched (0), taken by its first program (1) or written (2).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def take_turn(turn):
    """Whether this is the second program at its place; it then waits until the first has written."""
    second = tl.atomic_cas(turn, 0, 1) > 0
    if second:
        while tl.atomic_cas(turn, 2, 2) < 2:
            pass
    return second


@triton.jit
def end_turn(turn):
    tl.debug_barrier()  # all of the program has written
    tl.atomic_xchg(turn, 2)


@triton.jit
def leave(ptr, x, inside, second):
    """Write x, or add it to what is there."""
    if second:
        x += tl.load(ptr, mask=inside, other=0.0, cache_modifier=".cg")
    tl.store(ptr, x, mask=inside)


@triton.jit
def leave_tile(ptr, x, i, j, second, N: tl.constexpr, M: tl.constexpr):
    """The same for rows i and columns j of a matrix ``[N, M]``."""
    leave(ptr + i[:, None] * M + j[None, :], x, (i < N)[:, None] & (j < M)[None, :], second)


@triton.jit
def _put(ptr, x, at, first, size):
    """Store the numbers whose places among all are ``first`` to ``first + size``."""
    tl.store(ptr + at - first, x.to(ptr.dtype.element_ty), mask=(at >= first) & (at < first + size))


@triton.jit
def _add_up(
    sum_ptr, b_ptr, c_ptr, w2_ptr, b2_ptr, w3_ptr, b3_ptr, places, total, MATRIX: tl.constexpr, W2: tl.constexpr,
    H2: tl.constexpr, BP: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BS + tl.arange(0, BS)
    x = tl.zeros((BP, BS), tl.float32)
    for p0 in range(0, places, BP):
        p = p0 + tl.arange(0, BP)
        inside = (p < places)[:, None] & (at < total)[None, :]
        x += tl.load(sum_ptr + p[:, None].to(tl.int64) * total + at[None, :], mask=inside, other=0.0)
    x = tl.sum(x, axis=0)
    _put(b_ptr, x, at, 0, MATRIX)
    _put(c_ptr, x, at, MATRIX, MATRIX)
    _put(w2_ptr, x, at, 2 * MATRIX, W2)
    _put(b2_ptr, x, at, 2 * MATRIX + W2, H2)
    _put(w3_ptr, x, at, 2 * MATRIX + W2 + H2, H2)
    _put(b3_ptr, x, at, 2 * MATRIX + W2 + 2 * H2, 1)


def add_up(sums: Tensor, b: Tensor, c: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor) -> None:
    """Write the sums over places, ``sums[:, …]``, which has them one after the other, to these tensors."""
    places, total = sums.shape
    grid = (triton.cdiv(total, 64),)
    shape = {"MATRIX": b.numel(), "W2": w2.numel(), "H2": b2.numel()}
    _add_up[grid](sums, b, c, w2, b2, w3, b3, places, total, **shape, BP=32, BS=64, num_warps=4)


def memory(programs: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Memory for the sums of so many programs, ``[places, size]``, and a turn for each place."""
    count = (programs + 1) // 2
    sums = torch.empty(count, size, dtype=torch.float32, device=device)
    return sums, torch.zeros(count, dtype=torch.int32, device=device)
