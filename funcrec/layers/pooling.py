"""Sum, mean and maximum of sequences, padded or ragged; the pool of an empty sequence is 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange, reduce
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.ragged import Ragged, segment_mean, segment_sum

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Pool = Literal["sum", "mean", "max"]


def _check_kind(kind: str) -> None:
    if kind not in ("sum", "mean", "max"):
        fail(ConfigError, "pooling", got=repr(kind), expected="'sum', 'mean' or 'max'")


def pool_padded(x: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"], kind: Pool = "sum") -> Float[Tensor, "b d"]:
    """Sum, mean or maximum over the steps t where ``mask`` is true; what stands at the other steps has no effect.

    Shape: x ``[b, t, d]``, mask ``[b, t]`` bool, returns ``[b, d]``; 0 where a row of the mask is all false.

    Raises:
        ConfigError: an unknown ``kind``.
        ShapeError: x is not ``[b, t, d]``, or the mask not bool or not ``[b, t]``.
    """
    _check_kind(kind)
    if x.dim() != 3:
        fail(ShapeError, "pooling of padded steps", got=tuple(x.shape), expected="[b, t, d]")
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        fail(
            ShapeError,
            "pooling mask",
            got=f"{tuple(mask.shape)} {mask.dtype}",
            expected=f"{tuple(x.shape[:2])} torch.bool",
        )
    present = rearrange(mask, "b t -> b t 1")
    if kind == "max" and x.shape[1]:  # no step has no largest: its 0 is that of the sum
        # An extra candidate would give empty rows their 0, but also cap the others from below: choose after the fact.
        largest = reduce(x.masked_fill(~present, -torch.inf), "b t d -> b d", "max")
        return torch.where(reduce(present, "b t 1 -> b 1", "any"), largest, 0.0)
    total = reduce(torch.where(present, x, 0.0), "b t d -> b d", "sum")
    if kind != "mean":
        return total
    return total / reduce(present, "b t 1 -> b 1", "sum").clamp(min=1)


def pool_ragged(rows: Ragged, kind: Pool = "sum") -> Float[Tensor, "b d"]:
    """Sum, mean or maximum over the values of each row; with weights ``Σ w v`` and ``Σ w v / Σ w``.

    Shape: ``rows.values`` ``[nnz, d]`` float, returns ``[b, d]``; 0 for a row without values.

    Raises:
        ConfigError: an unknown ``kind``, or a weighted maximum.
        ShapeError: values that are not ``[nnz, d]`` floats.
    """
    _check_kind(kind)
    values, segments, n = rows.values, rows.segments(), len(rows)
    if values.dim() != 2 or not values.is_floating_point():
        fail(ShapeError, "pooling values", got=f"{tuple(values.shape)} {values.dtype}", expected="[nnz, d] floats")
    if kind == "mean":
        return segment_mean(values, segments, n, rows.weights)
    if kind == "sum":
        weighted = values if rows.weights is None else values * rearrange(rows.weights, "v -> v 1")
        return segment_sum(weighted, segments, n)
    if rows.weights is not None:
        fail(ConfigError, "pooling 'max' of weighted values", fix="drop the weights, or pool by sum or mean")
    index = rearrange(segments, "v -> v 1").expand_as(values)
    return values.new_zeros(n, values.shape[1]).scatter_reduce(0, index, values, "amax", include_self=False)
