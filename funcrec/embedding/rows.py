"""Row gradients as values: some rows of a stacked table and the gradient of each.

They can be summed over micro-batches, scaled, measured and clipped before any table is touched. That is what makes
gradient accumulation, global-norm clipping and loss scaling right for tables, where optimizers fused into the backward
pass cannot be (they have already written the table when the last micro-batch arrives).

Fresh from a lookup's transpose they are *summands*: a row stands there once for each of its occurrences, and many of
them may point at one pooled gradient. Whoever needs each row once sums them first; a fused update never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class RowGrad(NamedTuple):
    """The gradient of row r is ``Σ factors[i] · values[source[i]]`` over all i with ``rows[i] = r``.

    Shapes: rows ``[n]``, or None for all rows of the table in order; values ``[m, D]``; source ``[n]`` with numbers
    below m, or None: summand i is ``values[i]``; factors ``[n]``, or None for ones. ``unique``: whether each row stands
    in ``rows`` once.
    """

    rows: Tensor | None
    values: Tensor
    source: Tensor | None = None
    factors: Tensor | None = None
    unique: bool = False


class Deferred(Protocol):
    """An entry of a gradient that only its store can sum: other processes take part in it."""

    def plus(self, others: Sequence[Deferred]) -> Deferred: ...

    def times(self, factor: float | Tensor) -> Deferred: ...

    def squared_norm(self) -> Tensor: ...


Gradient = dict[str, RowGrad]  # or Deferred, which the functions below hand their work to


def summands(g: RowGrad, which: Tensor | None = None) -> Tensor:
    """``factors[i] · values[source[i]]`` for all i, or for those in ``which``; half precision becomes float32."""
    at, factors = g.source, g.factors
    if which is not None:
        at = which if at is None else at.index_select(0, which)
        factors = None if factors is None else factors.index_select(0, which)
    values = g.values if at is None else g.values.index_select(0, at)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return values if factors is None else values * factors.to(values.dtype).unsqueeze(-1)


def sum_duplicates(g: RowGrad) -> RowGrad:
    """Each row once, ascending, with its gradient in the same place of ``values``; deterministic.

    One sort, then the first summand of each row is gathered and only the further ones are added: ids of large tables
    seldom repeat within a batch, and a gather is several times as fast as a scattered addition.
    """
    if g.rows is None or g.unique:
        return g if g.source is None and g.factors is None else RowGrad(g.rows, summands(g), unique=True)
    ordered, order = torch.sort(g.rows, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    starts = first.nonzero().squeeze(1)
    rows = ordered.index_select(0, starts)
    values = summands(g, order.index_select(0, starts))
    repeats = first.logical_not_().nonzero().squeeze(1)
    if repeats.numel():
        owner = torch.searchsorted(starts, repeats, right=True) - 1
        values.index_add_(0, owner, summands(g, order.index_select(0, repeats)))
    return RowGrad(rows, values, unique=True)


def summed(gradient: Gradient) -> Gradient:
    """Each row of every stack once."""
    return {name: sum_duplicates(g) if isinstance(g, RowGrad) else g for name, g in gradient.items()}


def densify(g: RowGrad, n: int) -> Tensor:
    """The gradient of all ``n`` rows, ``[n, D]``, zeros included."""
    rows, values = sum_duplicates(g)[:2]
    if rows is None:
        return values
    return values.new_zeros(n, values.shape[1]).index_copy_(0, rows.long(), values)


def add(gradients: Sequence[Gradient]) -> Gradient:
    """The sum over micro-batches."""
    if len(gradients) == 1:
        return gradients[0]
    out = {}
    for name, first in gradients[0].items():
        if not isinstance(first, RowGrad):
            out[name] = first.plus([g[name] for g in gradients[1:]])
            continue
        parts = [sum_duplicates(g[name]) for g in gradients]
        if any(p.rows is None for p in parts):
            n = next(p.values.shape[0] for p in parts if p.rows is None)
            out[name] = RowGrad(None, sum(densify(p, n) for p in parts), unique=True)  # type: ignore[arg-type]
        else:
            rows = torch.cat([p.rows for p in parts])  # type: ignore[misc]
            out[name] = sum_duplicates(RowGrad(rows, torch.cat([p.values for p in parts])))
    return out


def scale(gradient: Gradient, factor: float | Tensor) -> Gradient:
    """Every gradient times ``factor``: 1 / micro-batches, a clip factor, or the inverse of a loss scale."""
    scaled = lambda g: g._replace(values=g.values * factor) if isinstance(g, RowGrad) else g.times(factor)  # noqa: E731
    return {name: scaled(g) for name, g in gradient.items()}


def squared_norm(gradient: Gradient) -> Tensor:
    """``Σ ‖row gradient‖²`` over all stacks, accumulated in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for g in gradient.values():
        square = sum_duplicates(g).values.double().square().sum() if isinstance(g, RowGrad) else g.squared_norm()
        total = total + square
    return total
