"""Row gradients as values: some rows of a stacked table and the gradient of each.

They can be summed over micro-batches, scaled, measured and clipped before any table is touched. That is what makes
gradient accumulation, global-norm clipping and loss scaling right for tables, where optimizers fused into the backward
pass cannot be (they have already written the table when the last micro-batch arrives).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class RowGrad(NamedTuple):
    """``values[i]`` is (a summand of) the gradient of row ``rows[i]``; ``rows=None`` means all rows, in order."""

    rows: Tensor | None
    values: Tensor


Gradient = dict[str, RowGrad]


def sum_duplicates(g: RowGrad) -> RowGrad:
    """Each row once, ascending, with the sum of its gradients; deterministic.

    One sort, then the first occurrence of each row is gathered and only the further ones are added: ids of large tables
    seldom repeat within a batch, and a gather is several times as fast as a scattered addition.
    """
    if g.rows is None or g.rows.numel() == 0:
        return g
    ordered, order = torch.sort(g.rows, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    starts = first.nonzero().squeeze(1)
    rows = ordered.index_select(0, starts)
    values = g.values.index_select(0, order.index_select(0, starts))
    repeats = first.logical_not_().nonzero().squeeze(1)
    if repeats.numel():
        owner = torch.searchsorted(starts, repeats, right=True) - 1
        values.index_add_(0, owner, g.values.index_select(0, order.index_select(0, repeats)))
    return RowGrad(rows, values)


def densify(g: RowGrad, n: int) -> Tensor:
    """The gradient of all ``n`` rows, ``[n, D]``, zeros included."""
    if g.rows is None:
        return g.values
    return g.values.new_zeros(n, g.values.shape[1]).index_add_(0, g.rows, g.values)


def add(gradients: Sequence[Gradient]) -> Gradient:
    """The sum over micro-batches, each row once."""
    if len(gradients) == 1:
        return gradients[0]
    out = {}
    for name in gradients[0]:
        parts = [g[name] for g in gradients]
        if any(p.rows is None for p in parts):
            n = next(p.values.shape[0] for p in parts if p.rows is None)
            out[name] = RowGrad(None, sum(densify(p, n) for p in parts))  # type: ignore[arg-type]
        else:
            rows = torch.cat([p.rows for p in parts])  # type: ignore[misc]
            out[name] = sum_duplicates(RowGrad(rows, torch.cat([p.values for p in parts])))
    return out


def scale(gradient: Gradient, factor: float | Tensor) -> Gradient:
    """Every gradient times ``factor``: 1 / micro-batches, a clip factor, or the inverse of a loss scale."""
    return {name: RowGrad(g.rows, g.values * factor) for name, g in gradient.items()}


def squared_norm(gradient: Gradient) -> Tensor:
    """``Σ ‖row gradient‖²`` over all stacks, accumulated in float64; rows must be unique (see ``sum_duplicates``)."""
    return sum((g.values.double().square().sum() for g in gradient.values()), torch.zeros((), dtype=torch.float64))
