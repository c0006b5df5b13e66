"""Kernels of ``wukong.mix``: everything behind the MLP of a WuKong layer in one pass over the fields of a sample.

The output fields are two tiles, the factorization machine's above and the compressed fields below. A residual matrix
is cut likewise, and its lower part added to the matrix of the compression: one product serves both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from funcrec.kernels.gpu.launch import block, precision, programs, upcast

EPS = tl.constexpr(1e-5)


@triton.jit
def _tile(ptr, first, rows, COLS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """``[BR, BC]`` of a row-major matrix from row ``first``, zeros past ``rows`` rows of it."""
    r = tl.arange(0, BR)[:, None]
    c = tl.arange(0, BC)[None, :]
    return tl.load(ptr + (first + r) * COLS + c, mask=(r < rows) & (c < COLS), other=0.0)


@triton.jit
def _upper(
    x,
    x_ptr,
    fmb_ptr,
    matrix,
    b,
    N: tl.constexpr,
    D: tl.constexpr,
    F: tl.constexpr,
    BF: tl.constexpr,
    BD: tl.constexpr,
    MATRIX: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The factorization machine's fields and their residual, in float32."""
    fields = _tile(fmb_ptr + b * F * D, 0, F, D, BF, BD).to(tl.float32)
    if MATRIX:
        return fields + tl.dot(tl.trans(matrix), x, input_precision=PRECISION)
    return fields + _tile(x_ptr + b * N * D, 0, F, D, BF, BD).to(tl.float32)


@triton.jit
def _lower(
    x,
    x_ptr,
    matrix,
    b,
    N: tl.constexpr,
    D: tl.constexpr,
    F: tl.constexpr,
    L: tl.constexpr,
    BL: tl.constexpr,
    BD: tl.constexpr,
    MATRIX: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The compressed fields and their residual, in float32."""
    fields = tl.dot(tl.trans(matrix), x, input_precision=PRECISION)
    if not MATRIX:
        fields += _tile(x_ptr + b * N * D, F, L, D, BL, BD).to(tl.float32)
    return fields


@triton.jit
def _norm(v, inside, D: tl.constexpr):
    """Rows of v, normalized, and the inverse of their deviations."""
    mean = tl.sum(tl.where(inside, v, 0.0), axis=1) / D
    centred = tl.where(inside, v - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / D + EPS)
    return centred * inverse[:, None], inverse


@triton.jit
def _mix(
    x_ptr,
    fmb_ptr,
    upper_ptr,
    lower_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    batch,
    N: tl.constexpr,
    D: tl.constexpr,
    F: tl.constexpr,
    L: tl.constexpr,
    BN: tl.constexpr,
    BF: tl.constexpr,
    BL: tl.constexpr,
    BD: tl.constexpr,
    MATRIX: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    d = tl.arange(0, BD)
    lower = _tile(lower_ptr, 0, N, L, BN, BL)
    upper = _tile(upper_ptr, 0, N, F, BN, BF) if MATRIX else lower
    scale = tl.load(scale_ptr + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(shift_ptr + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    if UP:
        lower = lower.to(tl.float32)
        upper = upper.to(tl.float32)
    f = tl.arange(0, BF)[:, None]
    m = tl.arange(0, BL)[:, None]
    inside = d[None, :] < D
    for b in range(tl.program_id(0).to(tl.int64), batch, tl.num_programs(0)):
        x = _tile(x_ptr + b * N * D, 0, N, D, BN, BD)
        if UP:
            x = x.to(tl.float32)
        to = out_ptr + b * (F + L) * D + d[None, :]
        fields = _upper(x, x_ptr, fmb_ptr, upper, b, N, D, F, BF, BD, MATRIX, PRECISION)
        y = _norm(fields, inside, D)[0] * scale + shift
        tl.store(to + f * D, y.to(out_ptr.dtype.element_ty), mask=(f < F) & inside)
        fields = _lower(x, x_ptr, lower, b, N, D, F, L, BL, BD, MATRIX, PRECISION)
        y = _norm(fields, inside, D)[0] * scale + shift
        tl.store(to + (F + m) * D, y.to(out_ptr.dtype.element_ty), mask=(m < L) & inside)


@triton.jit
def _norm_vjp(v, c, scale, inside, D: tl.constexpr):
    """Gradient of the rows before the norm, and of scale and shift: c is 0 at rows that do not exist."""
    normal, inverse = _norm(v, inside, D)
    g = c * scale
    g = g - (tl.sum(g, axis=1) / D)[:, None] - normal * (tl.sum(g * normal, axis=1) / D)[:, None]
    return tl.where(inside, g * inverse[:, None], 0.0), tl.sum(c * normal, axis=0), tl.sum(c, axis=0)


@triton.jit
def _d_fields(
    c_ptr,
    x_ptr,
    fmb_ptr,
    matrix_ptr,
    scale_ptr,
    out_ptr,
    d_scale_ptr,
    d_shift_ptr,
    batch,
    N: tl.constexpr,
    D: tl.constexpr,
    F: tl.constexpr,
    L: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    UPPER: tl.constexpr,
    MATRIX: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    """The gradient before the norm of some fields, BM of the upper or of the lower ones for each second program id."""
    own = tl.program_id(1) * BM
    M: tl.constexpr = F if UPPER else L
    first = own if UPPER else F + own
    d = tl.arange(0, BD)
    m = tl.arange(0, BM)[:, None]
    n = tl.arange(0, BN)[:, None]
    columns = own + tl.arange(0, BM)[None, :]
    matrix = tl.load(matrix_ptr + n * M + columns, mask=(n < N) & (columns < M), other=0.0)
    scale = tl.load(scale_ptr + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    if UP:
        matrix = matrix.to(tl.float32)
    inside = d[None, :] < D
    d_scale = tl.zeros((BD,), tl.float32)
    d_shift = tl.zeros((BD,), tl.float32)
    for b in range(tl.program_id(0).to(tl.int64), batch, tl.num_programs(0)):
        fields = tl.zeros((BM, BD), tl.float32)
        if MATRIX or not UPPER:
            x = _tile(x_ptr + b * N * D, 0, N, D, BN, BD)
            if UP:
                x = x.to(tl.float32)
            fields = tl.dot(tl.trans(matrix), x, fields, input_precision=PRECISION)
        if UPPER:
            fields += _tile(fmb_ptr + b * F * D, own, F - own, D, BM, BD).to(tl.float32)
        if not MATRIX:
            fields += _tile(x_ptr + b * N * D, first, M - own, D, BM, BD).to(tl.float32)
        c = _tile(c_ptr + b * (F + L) * D, first, M - own, D, BM, BD).to(tl.float32)
        g, d_s, d_t = _norm_vjp(fields, c, scale, inside, D)
        d_scale += d_s
        d_shift += d_t
        to = out_ptr + b * (F + L) * D + (first + m) * D + d[None, :]
        tl.store(to, g.to(out_ptr.dtype.element_ty), mask=(own + m < M) & inside)
    p = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(d_scale_ptr + p * D + d, d_scale, mask=d < D)
    tl.store(d_shift_ptr + p * D + d, d_shift, mask=d < D)


@triton.jit
def _d_x(
    x_ptr,
    g_ptr,
    matrix_ptr,
    d_x_ptr,
    d_matrix_ptr,
    batch,
    first,
    N: tl.constexpr,
    D: tl.constexpr,
    ALL: tl.constexpr,
    M: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    IDENTITY: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    """``W G (+ G)`` of every sample, and one summand a program of ``Σ_b X Gᵀ``, over the M fields from ``first``."""
    n = tl.arange(0, BN)[:, None]
    m = tl.arange(0, BM)[None, :]
    d = tl.arange(0, BD)[None, :]
    matrix = _tile(matrix_ptr, 0, N, M, BN, BM)
    if UP:
        matrix = matrix.to(tl.float32)
    d_matrix = tl.zeros((BN, BM), tl.float32)
    for b in range(tl.program_id(0).to(tl.int64), batch, tl.num_programs(0)):
        x = _tile(x_ptr + b * N * D, 0, N, D, BN, BD)
        g = _tile(g_ptr + b * ALL * D, first, M, D, BM, BD)
        if UP:
            x = x.to(tl.float32)
            g = g.to(tl.float32)
        d_matrix = tl.dot(x, tl.trans(g), d_matrix, input_precision=PRECISION)
        d_x = tl.dot(matrix, g, input_precision=PRECISION)
        if IDENTITY:
            d_x += _tile(g_ptr + b * ALL * D, 0, N, D, BN, BD).to(tl.float32)
        tl.store(d_x_ptr + b * N * D + n * D + d, d_x.to(d_x_ptr.dtype.element_ty), mask=(n < N) & (d < D))
    tl.store(d_matrix_ptr + tl.program_id(0) * N * M + n * M + m, d_matrix, mask=(n < N) & (m < M))


# Of the gradient before the norm: rows a tile, warps, programs a processor.
PLANS = tuple({"ROWS": r, "WARPS": w, "PER_SM": p} for r, w, p in ((32, 4, 2), (32, 4, 4), (16, 4, 4), (32, 8, 2)))


def _halves(lcb: Tensor, residual: Tensor | None, f: int) -> tuple[Tensor, Tensor]:
    """The matrices of the upper and the lower fields."""
    if residual is None:
        return lcb.contiguous(), lcb.contiguous()
    return residual[:, :f].contiguous(), (residual[:, f:].float() + lcb.float()).to(lcb.dtype).contiguous()


def mix(
    x: Tensor, fmb: Tensor, lcb: Tensor, residual: Tensor | None, scale: Tensor, shift: Tensor
) -> Tensor:  # fmt: skip
    x, fmb, f, m = x.contiguous(), fmb.contiguous(), fmb.shape[1], lcb.shape[1]
    batch, n, d = x.shape
    out = x.new_empty(batch, f + m, d)
    if out.numel():
        narrow = x.element_size() == 2
        grid = programs(x, batch, 2 if narrow else 1)
        sizes = {"N": n, "D": d, "F": f, "L": m, "BN": block(n), "BF": block(f), "BL": block(m), "BD": block(d)}
        flags = {"MATRIX": residual is not None, "PRECISION": precision(x), "UP": upcast()}
        flags |= {"num_warps": 4 if narrow else 8, "num_stages": 2}
        halves = _halves(lcb, residual, f)
        _mix[(grid,)](x, fmb, *halves, scale.contiguous(), shift.contiguous(), out, batch, **flags, **sizes)
    return out


def mix_vjp(
    c: Tensor, x: Tensor, fmb: Tensor, lcb: Tensor, residual: Tensor | None, scale: Tensor,
    plan: dict[str, int] | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    c, x, fmb, f, m = c.contiguous(), x.contiguous(), fmb.contiguous(), fmb.shape[1], lcb.shape[1]
    matrix = residual is not None
    batch, n, d = x.shape
    plan = plan or PLANS[0]
    wide = programs(x, batch, plan["PER_SM"])
    grid = programs(x, batch, 1)
    d_x, d_fields = torch.empty_like(x), torch.empty_like(c)
    tiles = [triton.cdiv(k, plan["ROWS"]) for k in (f, m)]
    d_scale, d_shift = torch.zeros(2, sum(tiles), wide, d, dtype=torch.float32, device=x.device)
    columns = f + m if matrix else m
    d_matrix = torch.zeros(grid, n, columns, dtype=torch.float32, device=x.device)
    if c.numel():
        same = {"N": n, "D": d, "BN": block(n), "BD": block(d), "PRECISION": precision(x), "UP": upcast()}
        halves = _halves(lcb, residual, f)
        for half in (0, 1):
            sums = (d_scale[half * tiles[0] :], d_shift[half * tiles[0] :])
            sizes = {"F": f, "L": m, "BM": plan["ROWS"], "UPPER": half == 0, "MATRIX": matrix}
            read = (c, x, fmb, halves[half], scale.contiguous())
            _d_fields[(wide, tiles[half])](
                *read, d_fields, *sums, batch, num_warps=plan["WARPS"], num_stages=2, **sizes, **same
            )
        whole = torch.cat(halves, dim=1) if matrix else halves[1]
        sizes = {"ALL": f + m, "M": columns, "BM": block(columns), "IDENTITY": not matrix, "num_warps": 8}
        # Tiles of float32 leave no room to load the next ones early.
        sizes["num_stages"] = 2 if x.element_size() == 2 else 1
        _d_x[(grid,)](x, d_fields, whole, d_x, d_matrix, batch, f + m - columns, **sizes, **same)
    d_whole = d_matrix.sum(0).to(lcb.dtype)
    d_residual = d_whole if matrix else x.new_zeros(0, 0)
    d_lcb = d_whole[:, columns - m :].contiguous()
    d_scale, d_shift = (v.sum((0, 1)).to(scale.dtype) for v in (d_scale, d_shift))
    return d_x, d_fields, d_lcb, d_residual, d_scale, d_shift
