"""Kernels of ``funcrec.kernels.rows``: sort the row numbers, then sum duplicates and step in one pass over them.

A tile is R consecutive summands in the order of their rows, ``[R, D]`` in registers. A *run* is all summands of one
row. Runs inside a tile are summed by a segmented scan and take their step at once: gradient, weight and slots are read
once and written once. A run that crosses the border of its tile leaves one partial sum a tile in scratch memory, and a
second kernel, one program for a few tiles, adds up those that begin in its tiles, 128 at a time: an id that occurs in
every example costs a hundredth of what it would as a loop over its summands.

Every sum is taken in an order that depends on the ids alone: results are the same in every run. No shape depends on the
ids and the host never waits, so a CUDA graph can hold all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.row_rules import load_rows, step_rows, store_rows


@triton.jit
def _add_within_run(sum_a, begins_a, sum_b, begins_b):
    """Two stretches of summands as one: the right one's sum goes on from the left one's unless a run begins in it."""
    return tl.where(begins_b != 0, sum_b, sum_a + sum_b), begins_a | begins_b


@triton.jit(do_not_specialize=["n"])
def _sum_and_step(
    weight_ptr,
    first_ptr,
    second_ptr,
    row_ptr,
    order_ptr,
    value_ptr,
    source_ptr,
    factor_ptr,
    partial_ptr,
    lr_ptr,
    correct_1_ptr,
    correct_2_ptr,
    n,
    D: tl.constexpr,
    BD: tl.constexpr,
    R: tl.constexpr,
    SOURCE: tl.constexpr,
    FACTOR: tl.constexpr,
    RULE: tl.constexpr,
    MODE: tl.constexpr,
    EPS: tl.constexpr,
    DECAY: tl.constexpr,
    BETA_1: tl.constexpr,
    BETA_2: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64)
    i = tile * R + tl.arange(0, R)
    d = tl.arange(0, BD)
    inside = i < n
    row = tl.load(row_ptr + i, mask=inside, other=-1).to(tl.int64)
    before = tl.load(row_ptr + i - 1, mask=inside & (i > 0), other=-1).to(tl.int64)
    after = tl.load(row_ptr + i + 1, mask=i + 1 < n, other=-1).to(tl.int64)
    left = tl.load(row_ptr + tile * R - 1, mask=tile > 0, other=-1).to(tl.int64)
    begins = row != before
    ends = row != after
    carried = row == left  # its run began in an earlier tile
    whole = inside & ends & (carried == 0)  # the last summand of a run that lies in this tile

    at = tl.load(order_ptr + i, mask=inside, other=0)
    if FACTOR:
        factor = tl.load(factor_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if SOURCE:
        at = tl.load(source_ptr + at, mask=inside, other=0).to(tl.int64)
    g = tl.load(value_ptr + at[:, None] * D + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)
    g = g.to(tl.float32)
    w, first, second = load_rows(weight_ptr, first_ptr, second_ptr, row, whole, D, BD, RULE)
    if FACTOR:
        g = g * factor[:, None]

    last = tl.arange(0, R) == R - 1
    crosses = inside & ((carried & (ends | last)) | (last & (ends == 0)))  # holds the sum of a part of a run
    if tl.sum((inside & (begins == 0)).to(tl.int32)) + tl.sum(crosses.to(tl.int32)) > 0:
        flag = tl.broadcast_to(begins[:, None], (R, BD)).to(tl.int32)
        g, flag = tl.associative_scan((g, flag), 0, _add_within_run)
        to = partial_ptr + (2 * tile + (carried == 0).to(tl.int64))[:, None] * D + d[None, :]
        tl.store(to, g, mask=crosses[:, None] & (d < D)[None, :])

    w, first, second = step_rows(
        w, g, first, second, lr_ptr, correct_1_ptr, correct_2_ptr, D, RULE, MODE, EPS, DECAY, BETA_1, BETA_2
    )
    store_rows(weight_ptr, first_ptr, second_ptr, w, first, second, row, whole, D, BD, RULE)


@triton.jit(do_not_specialize=["n"])
def _combine_and_step(
    weight_ptr,
    first_ptr,
    second_ptr,
    row_ptr,
    partial_ptr,
    lr_ptr,
    correct_1_ptr,
    correct_2_ptr,
    n,
    D: tl.constexpr,
    BD: tl.constexpr,
    R: tl.constexpr,
    TILES: tl.constexpr,
    K: tl.constexpr,
    RULE: tl.constexpr,
    MODE: tl.constexpr,
    EPS: tl.constexpr,
    DECAY: tl.constexpr,
    BETA_1: tl.constexpr,
    BETA_2: tl.constexpr,
):
    d = tl.arange(0, BD)
    t = tl.arange(0, TILES)
    first_tile = tl.program_id(0).to(tl.int64) * TILES
    start = (first_tile + t) * R
    left = tl.load(row_ptr + start - 1, mask=(start > 0) & (start + R < n), other=-1)
    own = tl.load(row_ptr + start + R - 1, mask=start + R < n, other=-1)
    right = tl.load(row_ptr + start + R, mask=start + R < n, other=-2)
    crosses = (own == right) & (own != left)  # a run begins in this tile and goes on in the next one
    now = tl.min(tl.where(crosses, t, TILES))
    while now < TILES:
        tile = first_tile + now
        row = tl.load(row_ptr + tile * R + R - 1).to(tl.int64)
        total = tl.load(partial_ptr + (2 * tile + 1) * D + d, mask=d < D, other=0.0)[None, :]
        going = tile + 1
        while going > 0:
            more = going + tl.arange(0, K)
            same = tl.load(row_ptr + more * R, mask=more * R < n, other=-1).to(tl.int64) == row
            parts = tl.load(
                partial_ptr + (2 * more)[:, None] * D + d[None, :], mask=same[:, None] & (d < D)[None, :], other=0.0
            )
            total += tl.sum(parts, axis=0)[None, :]
            going = tl.where(tl.sum(same.to(tl.int32)) == K, going + K, 0)
        one = row + tl.zeros((1,), tl.int64)
        use = one >= 0
        w, first, second = load_rows(weight_ptr, first_ptr, second_ptr, one, use, D, BD, RULE)
        w, first, second = step_rows(
            w, total, first, second, lr_ptr, correct_1_ptr, correct_2_ptr, D, RULE, MODE, EPS, DECAY, BETA_1, BETA_2
        )
        store_rows(weight_ptr, first_ptr, second_ptr, w, first, second, one, use, D, BD, RULE)
        now = tl.min(tl.where(crosses & (t > now), t, TILES))


class Plan(NamedTuple):
    """Of a tile: ``per_thread`` entries in the registers of a thread, ``warps`` for up to 128 columns. Of a program of
    the second kernel: ``tiles``, entries of partial sums that it loads at once (``parts``) and its warps."""

    per_thread: int = 32
    warps: int = 1
    tiles: int = 16
    parts: int = 4096
    combine_warps: int = 4


# Swept by the benchmark. One warp with all rows of a column in one thread scans without shared memory.
PLANS = (Plan(), Plan(per_thread=16), Plan(per_thread=64), Plan(per_thread=16, warps=2), Plan(per_thread=16, warps=4))


def update(
    weight: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    rows: Tensor,
    values: Tensor,
    source: Tensor | None,
    factors: Tensor | None,
    unique: bool,
    lr: Tensor,
    correct_1: Tensor,
    correct_2: Tensor,
    rule: str,
    decay_mode: str,
    constants: Sequence[float],
    plan: Plan | None = None,
) -> None:
    n, d = rows.shape[0], weight.shape[1]
    if n == 0 or d == 0:
        return
    plan = plan or PLANS[0]
    bd = triton.next_power_of_2(d)
    warps = plan.warps * max(1, bd // 128)
    r = min(max(plan.per_thread * 32 * warps // bd, 2), 256)
    tiles = triton.cdiv(n, r)
    ordered, order = (rows, torch.arange(n, device=rows.device)) if unique else torch.sort(rows, stable=True)
    partial = torch.empty((tiles, 2, d), dtype=torch.float32, device=weight.device)
    state = (weight, weight if first is None else first, weight if second is None else second)
    eps, decay, beta_1, beta_2 = constants
    shared = {
        "D": d,
        "BD": bd,
        "R": r,
        "RULE": rule,
        "MODE": decay_mode,
        "EPS": eps,
        "DECAY": decay,
        "BETA_1": beta_1,
        "BETA_2": beta_2,
    }
    _sum_and_step[(tiles,)](
        *state,
        ordered,
        order,
        values.contiguous(),
        order if source is None else source,
        lr if factors is None else factors,
        partial,
        lr,
        correct_1,
        correct_2,
        n,
        SOURCE=source is not None,
        FACTOR=factors is not None,
        **shared,
        num_warps=warps,
    )
    if tiles > 1:
        _combine_and_step[(triton.cdiv(tiles, plan.tiles),)](
            *state,
            ordered,
            partial,
            lr,
            correct_1,
            correct_2,
            n,
            TILES=plan.tiles,
            K=max(plan.parts // bd, 2),
            **shared,
            num_warps=plan.combine_warps,
        )
