"""Kernels of ``funcrec.kernels.lookup``: a program sums a few bags side by side, some ids of each at a time.

Rows of the table are read once an occurrence and results written once; nothing of size ``[nnz, D]`` is in memory. Each
bag is summed in the order of its ids, so results are the same in every run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["bags"])
def _pooled(
    weight_ptr,
    id_ptr,
    offset_ptr,
    factor_ptr,
    out_ptr,
    bags,
    D: tl.constexpr,
    BD: tl.constexpr,
    BAGS: tl.constexpr,
    IDS: tl.constexpr,
    FACTOR: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64) * BAGS + tl.arange(0, BAGS)
    d = tl.arange(0, BD)[None, :]
    there = b < bags
    begin = tl.load(offset_ptr + b, mask=there, other=0)
    end = tl.load(offset_ptr + b + 1, mask=there, other=0)
    total = tl.zeros((BAGS, BD), tl.float32)
    for first in range(0, tl.max(end - begin), IDS):
        for k in tl.static_range(IDS):  # independent loads: IDS rows of each bag are on their way at once
            i = begin + first + k
            real = i < end
            row = tl.load(id_ptr + i, mask=real, other=0).to(tl.int64)
            x = tl.load(weight_ptr + row[:, None] * D + d, mask=real[:, None] & (d < D), other=0.0).to(tl.float32)
            if FACTOR:
                x = x * tl.load(factor_ptr + i, mask=real, other=0.0).to(tl.float32)[:, None]
            total += x
    tl.store(out_ptr + b[:, None] * D + d, total.to(out_ptr.dtype.element_ty), mask=there[:, None] & (d < D))


class Plan(NamedTuple):
    """``per_thread`` entries of the bags' sums a thread, ``ids`` of each bag at a time; a warp for 128 columns."""

    per_thread: int = 16
    ids: int = 4


PLANS = (Plan(), Plan(8, 4), Plan(8, 8), Plan(16, 2), Plan(32, 1), Plan(32, 2))


def pooled(weight: Tensor, ids: Tensor, offsets: Tensor, factors: Tensor | None, plan: Plan | None = None) -> Tensor:
    bags, d = offsets.shape[0] - 1, weight.shape[1]
    out = torch.empty((bags, d), dtype=weight.dtype, device=weight.device)
    if out.numel():
        plan = plan or PLANS[0]
        bd = triton.next_power_of_2(d)
        warps = max(1, bd // 128)
        each = min(max(plan.per_thread * 32 * warps // bd, 1), 64)
        weight, ids, offsets = weight.contiguous(), ids.contiguous(), offsets.contiguous()
        _pooled[(triton.cdiv(bags, each),)](
            weight,
            ids,
            offsets,
            weight if factors is None else factors.contiguous(),
            out,
            bags,
            D=d,
            BD=bd,
            BAGS=each,
            IDS=plan.ids,
            FACTOR=factors is not None,
            num_warps=warps,
        )
    return out


@triton.jit(do_not_specialize=["n"])
def _gathered(weight_ptr, id_ptr, out_ptr, n, D: tl.constexpr, BD: tl.constexpr, IDS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * IDS + tl.arange(0, IDS)
    d = tl.arange(0, BD)[None, :]
    row = tl.load(id_ptr + i, mask=i < n, other=0).to(tl.int64)
    there = (i < n)[:, None] & (d < D)
    x = tl.load(weight_ptr + row[:, None] * D + d, mask=there, other=0.0)
    tl.store(out_ptr + i[:, None] * D + d, x, mask=there)


def gathered(weight: Tensor, ids: Tensor, entries: int = 4096) -> Tensor:
    """``entries``: numbers that a program moves, 32 a thread."""
    n, d = ids.shape[0], weight.shape[1]
    out = torch.empty((n, d), dtype=weight.dtype, device=weight.device)
    if out.numel():
        bd = triton.next_power_of_2(d)
        each = max(entries // bd, 1)
        grid = (triton.cdiv(n, each),)
        _gathered[grid](weight.contiguous(), ids.contiguous(), out, n, D=d, BD=bd, IDS=each, num_warps=4)
    return out
