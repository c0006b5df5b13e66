"""The row rules of ``funcrec.optim.rowwise`` on a tile of rows, in float32: what the kernels of ``rows`` call."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(weight_ptr, first_ptr, second_ptr, row, use, D: tl.constexpr, BD: tl.constexpr, RULE: tl.constexpr):
    """Weights ``[R, BD]`` of these rows and what the rule keeps of them: entries ``[R, BD]`` or numbers ``[R]``."""
    d = tl.arange(0, BD)
    inside = use[:, None] & (d < D)[None, :]
    at = row[:, None] * D + d[None, :]
    w = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
    first = w
    second = w
    if RULE == "rowwise_adagrad":
        first = tl.load(first_ptr + row, mask=use, other=0.0)
    elif RULE != "sgd":
        first = tl.load(first_ptr + at, mask=inside, other=0.0)
    if RULE == "partial_rowwise_adam":
        second = tl.load(second_ptr + row, mask=use, other=0.0)
    elif RULE == "adam":
        second = tl.load(second_ptr + at, mask=inside, other=0.0)
    return w, first, second


@triton.jit
def step_rows(
    w,
    g,
    first,
    second,
    lr_ptr,
    correct_1_ptr,
    correct_2_ptr,
    D: tl.constexpr,
    RULE: tl.constexpr,
    MODE: tl.constexpr,
    EPS: tl.constexpr,
    DECAY: tl.constexpr,
    BETA_1: tl.constexpr,
    BETA_2: tl.constexpr,
):
    """One step. ``correct_i_ptr``: to 1 - β_i^t, for the rules with moving averages. Columns from D on hold zeros."""
    lr = tl.load(lr_ptr).to(tl.float32)
    if RULE == "sgd":
        w = w - lr * g
    elif RULE == "adagrad":
        first = first + g * g
        w = w - lr * g / (tl.sqrt(first) + EPS)
    elif RULE == "rowwise_adagrad":
        seen = g
        if MODE == "l2":
            seen = g + DECAY * w
        first = first + tl.sum(seen * seen, axis=1) / D
        m = (lr / (tl.sqrt(first) + EPS))[:, None]
        if MODE == "l2":
            w = (1.0 - m * DECAY) * w
        elif MODE == "decouple":
            w = (1.0 - lr * DECAY) * w
        w = w - m * g
    else:
        correct_1 = tl.load(correct_1_ptr).to(tl.float32)
        correct_2 = tl.load(correct_2_ptr).to(tl.float32)
        first = BETA_1 * first + (1.0 - BETA_1) * g
        if RULE == "adam":
            second = BETA_2 * second + (1.0 - BETA_2) * (g * g)
            root = tl.sqrt(second / correct_2)
        else:
            second = BETA_2 * second + (1.0 - BETA_2) * (tl.sum(g * g, axis=1) / D)
            root = tl.sqrt(second / correct_2)[:, None]
        w = w - lr * (first / correct_1 / (root + EPS) + DECAY * w)
    return w, first, second


@triton.jit
def store_rows(
    weight_ptr, first_ptr, second_ptr, w, first, second, row, use, D: tl.constexpr, BD: tl.constexpr, RULE: tl.constexpr
):
    """The inverse of :func:`load_rows`; weights are rounded here, once."""
    d = tl.arange(0, BD)
    inside = use[:, None] & (d < D)[None, :]
    at = row[:, None] * D + d[None, :]
    tl.store(weight_ptr + at, w.to(weight_ptr.dtype.element_ty), mask=inside)
    if RULE == "rowwise_adagrad":
        tl.store(first_ptr + row, first, mask=use)
    elif RULE != "sgd":
        tl.store(first_ptr + at, first, mask=inside)
    if RULE == "partial_rowwise_adam":
        tl.store(second_ptr + row, second, mask=use)
    elif RULE == "adam":
        tl.store(second_ptr + at, second, mask=inside)
