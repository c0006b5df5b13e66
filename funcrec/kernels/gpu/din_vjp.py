"""Gradients of ``funcrec.kernels.din``: every program sums the gradients of the weights over its samples in registers.

Hidden layers are computed again, a block of steps at a time; with softmax once more before, as the gradient of a score
needs sums over all steps.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.din import (
    CODES,
    RELU,
    SIGMOID,
    by_rows,
    first_layer,
    layers,
    matrix,
    place,
    sizes,
    steps,
    vector,
    wide,
)
from funcrec.kernels.gpu.din_sums import add_up, end_turn, leave, leave_tile, memory, take_turn
from funcrec.kernels.gpu.launch import precision, programs, upcast


@triton.jit
def _slope(dy, y, ACT: tl.constexpr):
    """``dy f'(x)`` in terms of ``y = f(x)``."""
    if ACT == RELU:
        return tl.where(y > 0, dy, 0.0)
    elif ACT == SIGMOID:
        return dy * y * (1 - y)
    else:
        return dy


@triton.jit
def _nothing(dk_ptr, start, stop, d, D: tl.constexpr, BT: tl.constexpr):
    """Zeros in rows that are nobody's."""
    for t0 in range(start, stop, BT):
        t = t0 + tl.arange(0, BT)
        inside = (t < stop)[:, None] & (d < D)[None, :]
        tl.store(dk_ptr + t[:, None] * D + d[None, :], tl.zeros((BT, d.shape[0]), dk_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _below(dh, g, w2, ACT: tl.constexpr, PRECISION: tl.constexpr):
    """The gradient of the first layer, before its activation, from that of the second."""
    return _slope(tl.dot(dh, w2, input_precision=PRECISION), g.to(tl.float32), ACT)


@triton.jit
def _din_vjp(
    dy_ptr, a_ptr, q_ptr, k_ptr, start_ptr, length_ptr, b_ptr, c_ptr, w2_ptr, b2_ptr, w3_ptr, b3_ptr, da_ptr, dq_ptr,
    dk_ptr, sum_ptr, turn_ptr, places, batch, rows, k_stride, b_stride, c_stride, D: tl.constexpr, H1: tl.constexpr,
    H2: tl.constexpr, BD: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, BH2: tl.constexpr, BT: tl.constexpr,
    ACT: tl.constexpr, SOFTMAX: tl.constexpr, PRECISION: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    d = tl.arange(0, BD)
    h1 = tl.arange(0, LEFT)
    r1 = LEFT + tl.arange(0, RIGHT or LEFT)
    h2 = tl.arange(0, BH2)
    w2 = matrix(w2_ptr, h2, h1, H1, H2, H1, UP)
    w2_r = matrix(w2_ptr, h2, r1, H1, H2, H1, UP) if RIGHT else w2
    b2 = vector(b2_ptr, h2, H2)
    w3 = vector(w3_ptr, h2, H2)
    b3 = tl.load(b3_ptr).to(tl.float32)
    db = tl.zeros((LEFT, BD), tl.float32)
    dc = tl.zeros((LEFT, BD), tl.float32)
    dw2 = tl.zeros((BH2, LEFT), tl.float32)
    if RIGHT:
        db_r = tl.zeros((RIGHT, BD), tl.float32)
        dc_r = tl.zeros((RIGHT, BD), tl.float32)
        dw2_r = tl.zeros((BH2, RIGHT), tl.float32)
    db2 = tl.zeros((BT, BH2), tl.float32)
    dw3 = tl.zeros((BT, BH2), tl.float32)
    db3 = tl.zeros((BT,), tl.float32)
    start, n = place(start_ptr, length_ptr, tl.program_id(0), batch)
    for i in range(0, tl.cdiv(batch - tl.program_id(0), tl.num_programs(0))):
        row = tl.program_id(0).to(tl.int64) + i * tl.num_programs(0)
        next_start, next_n = place(start_ptr, length_ptr, row + tl.num_programs(0), batch)  # known when it is its turn
        q = vector(q_ptr + row * D, d, D)
        dy = vector(dy_ptr + row * D, d, D)
        a = vector(a_ptr + row * H1, h1, H1)
        a_r = vector(a_ptr + row * H1, r1, H1) if RIGHT else a
        first = first_layer(b_ptr, c_ptr, q, h1, d, b_stride, c_stride, H1, D, UP)
        first_r = first_layer(b_ptr, c_ptr, q, r1, d, b_stride, c_stride, H1, D, UP) if RIGHT else first
        largest = float("-inf")
        weights = 0.0
        mean = 0.0
        if SOFTMAX:
            for t0 in range(0, n, BT):
                t = t0 + tl.arange(0, BT)
                k = steps(k_ptr, start, t, d, n, k_stride, D, UP)
                _, _, h = layers(k, first, first_r, a, a_r, w2, w2_r, b2, RIGHT, ACT, PRECISION)
                score = tl.where(t < n, tl.sum(h * w3[None, :], axis=1), float("-inf"))
                along = tl.sum(k.to(tl.float32) * dy[None, :], axis=1)
                larger = tl.maximum(largest, tl.max(score, axis=0))
                shrink = tl.exp(largest - larger)
                weight = tl.exp(score - larger)
                weights = weights * shrink + tl.sum(weight, axis=0)
                mean = mean * shrink + tl.sum(weight * along, axis=0)
                largest = larger
            mean = mean / tl.where(n > 0, weights, 1.0)
        g_sum = tl.zeros((LEFT, BD), tl.float32)
        da = tl.zeros((LEFT,), tl.float32)
        if RIGHT:
            g_sum_r = tl.zeros((RIGHT, BD), tl.float32)
            da_r = tl.zeros((RIGHT,), tl.float32)
        for t0 in range(0, n, BT):
            t = t0 + tl.arange(0, BT)
            k = steps(k_ptr, start, t, d, n, k_stride, D, UP)
            g, g_r, h = layers(k, first, first_r, a, a_r, w2, w2_r, b2, RIGHT, ACT, PRECISION)
            score = tl.sum(h * w3[None, :], axis=1)
            along = tl.sum(k.to(tl.float32) * dy[None, :], axis=1)
            if SOFTMAX:
                weight = tl.where(t < n, tl.exp(score - largest) / weights, 0.0)
                d_score = weight * (along - mean)
            else:
                weight = tl.where(t < n, score + b3, 0.0)
                d_score = along
                db3 += d_score
            dw3 += d_score[:, None] * h
            dh = _slope(d_score[:, None] * w3[None, :], h, ACT)
            db2 += dh
            dh = dh.to(k.dtype)
            dg = _below(dh, g, w2, ACT, PRECISION)
            da += tl.sum(dg, axis=0)
            dg = dg.to(k.dtype)
            dk = tl.dot(dg, first, input_precision=PRECISION)
            dw2 = tl.dot(tl.trans(dh), g, dw2, input_precision=PRECISION)
            g_sum = tl.dot(tl.trans(dg), k, g_sum, input_precision=PRECISION)
            if RIGHT:
                dg_r = _below(dh, g_r, w2_r, ACT, PRECISION)
                da_r += tl.sum(dg_r, axis=0)
                dg_r = dg_r.to(k.dtype)
                dk = tl.dot(dg_r, first_r, dk, input_precision=PRECISION)
                dw2_r = tl.dot(tl.trans(dh), g_r, dw2_r, input_precision=PRECISION)
                g_sum_r = tl.dot(tl.trans(dg_r), k, g_sum_r, input_precision=PRECISION)
            dk += weight[:, None] * dy[None, :]
            at = (start + t)[:, None] * D + d[None, :]
            tl.store(dk_ptr + at, dk.to(dk_ptr.dtype.element_ty), mask=(t < n)[:, None] & (d < D)[None, :])
        db += g_sum
        dc += g_sum * q[None, :]
        dq = tl.sum(g_sum * matrix(c_ptr, h1, d, c_stride, H1, D, UP).to(tl.float32), axis=0)
        tl.store(da_ptr + row * H1 + h1, da.to(da_ptr.dtype.element_ty), mask=h1 < H1)
        if RIGHT:
            db_r += g_sum_r
            dc_r += g_sum_r * q[None, :]
            dq += tl.sum(g_sum_r * matrix(c_ptr, r1, d, c_stride, H1, D, UP).to(tl.float32), axis=0)
            tl.store(da_ptr + row * H1 + r1, da_r.to(da_ptr.dtype.element_ty), mask=r1 < H1)
        tl.store(dq_ptr + row * D + d, dq.to(dq_ptr.dtype.element_ty), mask=d < D)
        stop = tl.load(start_ptr + row + 1, mask=row + 1 < batch, other=rows)
        _nothing(dk_ptr, start + n, stop, d, D, BT)
        if row == 0:
            _nothing(dk_ptr, start * 0, start, d, D, BT)
        start, n = next_start, next_n
    turn = turn_ptr + tl.program_id(0) % places
    second = take_turn(turn)
    part = sum_ptr + (tl.program_id(0) % places).to(tl.int64) * (2 * H1 * D + H2 * H1 + 2 * H2 + 1)
    leave_tile(part, db, h1, d, second, H1, D)
    leave_tile(part + H1 * D, dc, h1, d, second, H1, D)
    leave_tile(part + 2 * H1 * D, dw2, h2, h1, second, H2, H1)
    if RIGHT:
        leave_tile(part, db_r, r1, d, second, H1, D)
        leave_tile(part + H1 * D, dc_r, r1, d, second, H1, D)
        leave_tile(part + 2 * H1 * D, dw2_r, h2, r1, second, H2, H1)
    part += 2 * H1 * D + H2 * H1
    leave(part + h2, tl.sum(db2, axis=0), h2 < H2, second)
    leave(part + H2 + h2, tl.sum(dw3, axis=0), h2 < H2, second)
    leave(part + 2 * H2, tl.sum(db3, axis=0), places > 0, second)
    end_turn(turn)


# As in din.py, but no more than two programs a multiprocessor: their sums take memory. The last is for wide layers and
# float32.
PLANS: tuple[dict[str, int], ...] = (
    {"BT": 32, "PROGRAMS": 2, "num_warps": 4, "num_stages": 1},
    {"BT": 16, "PROGRAMS": 2, "num_warps": 4, "num_stages": 1},
    {"BT": 32, "PROGRAMS": 1, "num_warps": 8, "num_stages": 1},
    {"BT": 16, "PROGRAMS": 2, "num_warps": 8, "num_stages": 1, "maxnreg": 128},
    {"BT": 16, "PROGRAMS": 1, "num_warps": 8, "num_stages": 1},
)


def _plan(shape: dict[str, int]) -> dict[str, int]:
    return PLANS[-1] if wide(shape) else PLANS[1]


def din_vjp(
    dy: Tensor, a: Tensor, q: Tensor, keys: Tensor, starts: Tensor, lengths: Tensor, by_key: Tensor,
    by_product: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor, activation: str, softmax: bool,
    plan: dict[str, int] | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs = (a, q, keys, by_key, by_product, w2, b2, w3, b3)
    outputs = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)
    if q.shape[0] == 0:
        return tuple(x.zero_() for x in outputs)
    (da, dq, dk), rest, shape = outputs[:3], outputs[3:], sizes(keys, w2)
    options: dict[str, Any] = dict(plan or _plan(shape))
    count = programs(keys, q.shape[0], options.pop("PROGRAMS"))
    sums, turns = memory(count, sum(x.numel() for x in rest), keys.device)
    keys, by_key, by_product = by_rows(keys), by_rows(by_key), by_rows(by_product)
    _din_vjp[(count,)](
        dy.contiguous(), a.contiguous(), q.contiguous(), keys, starts.contiguous(), lengths.contiguous(), by_key,
        by_product, w2.contiguous(), b2.contiguous(), w3.contiguous(), b3, da, dq, dk, sums, turns, turns.numel(),
        q.shape[0], keys.shape[0], keys.stride(0), by_key.stride(0), by_product.stride(0), **shape,
        ACT=CODES[activation], SOFTMAX=softmax, PRECISION=precision(keys), UP=upcast(), **options,
    )  # fmt: skip
    add_up(sums, *rest)
    return outputs
