"""Kernels of ``funcrec.kernels.cross``: a row is read once, its recurrence runs in registers, a row is written.

Programs stay: each takes every n-th row, with the weights in registers and the next rows on their way to shared memory.
The backward kernel adds up γ x and c over its rows; a second kernel sums what the programs have, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.launch import block, programs


@triton.jit
def _entry(vector, i, k: tl.constexpr):
    """Number k of a vector with these indices."""
    return tl.sum(tl.where(i == k, vector, 0.0), axis=0)


@triton.jit
def _weights(w_ptr, L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, BD: tl.constexpr):
    """All weights, zeros behind the last: ``[LP, BD]``."""
    i = tl.arange(0, LP)[:, None]
    d = tl.arange(0, BD)[None, :]
    return tl.load(w_ptr + i * D + d, mask=(i < L) & (d < D), other=0.0).to(tl.float32)


@triton.jit
def _biases(w_ptr, b_ptr, L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, BD: tl.constexpr):
    """``s_l · w_l`` of every layer, ``[LP]``, and ``s_L``, ``[BD]``."""
    i = tl.arange(0, LP)
    d = tl.arange(0, BD)
    s = tl.zeros((BD,), tl.float32)
    t = tl.zeros((LP,), tl.float32)
    for k in tl.static_range(L):
        w_k = tl.load(w_ptr + k * D + d, mask=d < D, other=0.0).to(tl.float32)
        t = tl.where(i == k, tl.sum(s * w_k, axis=0), t)
        s += tl.load(b_ptr + k * D + d, mask=d < D, other=0.0).to(tl.float32)
    return t, s


@triton.jit
def _cross(x_ptr, w_ptr, b_ptr, y_ptr, batch, x_stride, L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr,
           BD: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    i = tl.arange(0, LP)
    d = tl.arange(0, BD)[None, :]
    t, s = _biases(w_ptr, b_ptr, L, D, LP, BD)
    w = _weights(w_ptr, L, D, LP, BD)
    first = tl.program_id(0).to(tl.int64)  # for numbers of elements above 2^31
    for row in tl.range(first, batch, tl.num_programs(0), num_stages=STAGES):
        x = tl.load(x_ptr + row * x_stride + d, mask=d < D, other=0.0).to(tl.float32)
        p = tl.sum(w * x, axis=1)
        a = 1.0
        for k in tl.static_range(L):
            a = a * (1.0 + _entry(p, i, k)) + _entry(t, i, k)
        y = a * x + s[None, :]
        tl.store(y_ptr + row * D + d, y.to(y_ptr.dtype.element_ty), mask=d < D)


@triton.jit
def _cross_vjp(c_ptr, x_ptr, w_ptr, b_ptr, dx_ptr, sums_ptr, tau_ptr, batch, c_stride, x_stride, L: tl.constexpr,
               D: tl.constexpr, LP: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    i = tl.arange(0, LP)
    d = tl.arange(0, BD)[None, :]
    t, _ = _biases(w_ptr, b_ptr, L, D, LP, BD)
    w = _weights(w_ptr, L, D, LP, BD)
    last = (i == L)[:, None]
    tau = tl.zeros((LP,), tl.float32)
    sums = tl.zeros((LP, BD), tl.float32)  # of γ_l x, and of c in row L
    first = tl.program_id(0).to(tl.int64)  # for numbers of elements above 2^31
    for row in tl.range(first, batch, tl.num_programs(0), num_stages=STAGES):
        x = tl.load(x_ptr + row * x_stride + d, mask=d < D, other=0.0).to(tl.float32)
        c = tl.load(c_ptr + row * c_stride + d, mask=d < D, other=0.0).to(tl.float32)
        p = tl.sum(tl.where(last, c, w) * x, axis=1)
        a = 1.0
        before = tl.zeros((LP,), tl.float32)  # a_l
        for k in tl.static_range(L):
            before = tl.where(i == k, a, before)
            a = a * (1.0 + _entry(p, i, k)) + _entry(t, i, k)
        alpha = _entry(p, i, L)
        after = tl.zeros((LP,), tl.float32)  # α_{l+1}
        for j in tl.static_range(L):
            after = tl.where(i == L - 1 - j, alpha, after)
            alpha *= 1.0 + _entry(p, i, L - 1 - j)
        gamma = before * after
        tau += after
        sums += tl.where(last, c, gamma[:, None] * x)
        dx = a * c + tl.sum(gamma[:, None] * w, axis=0)[None, :]
        tl.store(dx_ptr + row * D + d, dx.to(dx_ptr.dtype.element_ty), mask=d < D)
    tl.store(sums_ptr + (first * (L + 1) + i[:, None]) * D + d, sums, mask=(i <= L)[:, None] & (d < D))
    tl.store(tau_ptr + first * LP + i, tau)


@triton.jit
def _finish(sums_ptr, tau_ptr, w_ptr, b_ptr, dw_ptr, db_ptr, programs, L: tl.constexpr, D: tl.constexpr,
            LP: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr):  # fmt: skip
    """Program (j, k) sums row k of what the programs have, columns j: dW_k, or all of db where k = L."""
    k = tl.program_id(1)
    i = tl.arange(0, LP)
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    total = tl.zeros((BD,), tl.float32)
    tau = tl.zeros((LP,), tl.float32)
    for start in range(0, programs, BP):
        p = start + tl.arange(0, BP)
        there = (p < programs)[:, None]
        part = sums_ptr + (p[:, None].to(tl.int64) * (L + 1) + k) * D + d[None, :]
        total += tl.sum(tl.load(part, mask=there & (d < D)[None, :], other=0.0), axis=0)
        tau += tl.sum(tl.load(tau_ptr + p[:, None] * LP + i[None, :], mask=there, other=0.0), axis=0)
    if k < L:
        earlier = (i < k)[:, None] & (d < D)[None, :]
        s = tl.sum(tl.load(b_ptr + i[:, None] * D + d[None, :], mask=earlier, other=0.0).to(tl.float32), axis=0)
        dw = total + tl.sum(tl.where(i == k, tau, 0.0), axis=0) * s
        tl.store(dw_ptr + k * D + d, dw.to(dw_ptr.dtype.element_ty), mask=d < D)
    else:
        for j in tl.static_range(L):
            tl.store(db_ptr + (L - 1 - j) * D + d, total.to(db_ptr.dtype.element_ty), mask=d < D)
            w_j = tl.load(w_ptr + (L - 1 - j) * D + d, mask=d < D, other=0.0).to(tl.float32)
            total += _entry(tau, i, L - 1 - j) * w_j


FORWARD = (  # numbers of the weights that a thread has, warps that stay on a processor, stages of the loop over rows
    {"numbers": 64, "warps": 16, "stages": 4},
    {"numbers": 64, "warps": 16, "stages": 3},
    {"numbers": 64, "warps": 16, "stages": 2},
    {"numbers": 32, "warps": 32, "stages": 3},
    {"numbers": 128, "warps": 8, "stages": 3},
)
BACKWARD = (
    {"numbers": 64, "warps": 8, "stages": 4},
    {"numbers": 64, "warps": 8, "stages": 3},
    {"numbers": 64, "warps": 8, "stages": 2},
    {"numbers": 32, "warps": 16, "stages": 3},
)


def _plan(x: Tensor, lp: int, rows: int, plan: dict[str, int]) -> tuple[int, dict[str, int]]:
    """How many programs there are, ``rows`` rows or more for each, and their options."""
    bd = block(x.shape[1])
    warps = min(max(max(lp, 4) * bd // (32 * plan["numbers"]), 1), 16)
    n = programs(x, triton.cdiv(x.shape[0], rows), max(plan["warps"] // warps, 1))
    return n, {"LP": lp, "BD": bd, "STAGES": plan["stages"], "num_warps": warps}


def _rows(x: Tensor) -> Tensor:
    """x with rows of consecutive numbers: a slice of wider rows needs no copy."""
    return x if x.stride(1) == 1 or x.numel() == 0 else x.contiguous()


def cross(x: Tensor, weight: Tensor, bias: Tensor, plan: dict[str, int] = FORWARD[0]) -> Tensor:
    (batch, d), layers = x.shape, weight.shape[0]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if y.numel():
        x, weight, bias = _rows(x), weight.contiguous(), bias.contiguous()
        n, options = _plan(x, block(layers, 1), 1, plan)
        _cross[(n,)](x, weight, bias, y, batch, x.stride(0), L=layers, D=d, **options)
    return y


def cross_vjp(
    c: Tensor, x: Tensor, weight: Tensor, bias: Tensor, plan: dict[str, int] = BACKWARD[0]
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, d), layers = x.shape, weight.shape[0]
    if x.numel() == 0:
        return torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
    c, x, weight, bias = _rows(c), _rows(x), weight.contiguous(), bias.contiguous()
    d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    d_weight, d_bias = torch.empty_like(weight), torch.empty_like(bias)
    n, options = _plan(x, block(layers + 1, 1), 8, plan)
    sums = torch.empty(n, layers + 1, d, dtype=torch.float32, device=x.device)
    tau = torch.empty(n, options["LP"], dtype=torch.float32, device=x.device)
    _cross_vjp[(n,)](c, x, weight, bias, d_x, sums, tau, batch, c.stride(0), x.stride(0), L=layers, D=d, **options)
    grid = (triton.cdiv(d, 64), layers + 1)
    _finish[grid](sums, tau, weight, bias, d_weight, d_bias, n, L=layers, D=d, LP=options["LP"], BD=64, BP=64)
    return d_x, d_weight, d_bias
