"""Lookups: one row of a table a result, or the sum of a bag of them.

    gathered(W, ids)[i] = W[ids[i]]
    pooled(W, ids, offsets, f)[b] = Σ_{offsets[b] <= i < offsets[b + 1]} f[i] · W[ids[i]]

Linear in W and in f. ``<c, pooled(W, f)> = <W, Σ_i f[i] · c[bag(i)] at ids[i]> = <f, <W[ids[i]], c[bag(i)]>>``: the
adjoints are a scatter and a row-wise dot product, written with torch's index ops, which every transform goes through.
Training of tables never asks for them: a store takes the gradient of the pooled vectors and updates rows. ``gathered``
is an op because torch's own lookup has little more than half of the memory's rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from funcrec.core.ragged import Ragged, rows_at, segment_sum
from funcrec.kernels.primitive import Args, linear_jvp, primitive


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pooled_reference(weight: Tensor, ids: Tensor, offsets: Tensor, factors: Tensor | None) -> Tensor:
    """``[rows, D], [nnz], [bags + 1], [nnz] -> [bags, D]``; half precision is summed in float32 and rounded once."""
    rows = rows_at(weight, ids)
    if factors is not None:
        rows = _wide(rows) * factors.to(_wide(rows).dtype).unsqueeze(-1)
    return segment_sum(rows, Ragged(ids, offsets).segments(), offsets.shape[0] - 1).to(weight.dtype)


def _pooled_vjp(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    weight, ids, offsets, factors = args
    d = _wide(rows_at(cotangents[0], Ragged(ids, offsets).segments()))
    d_weight = d_factors = None
    if needs[0]:
        summands = d if factors is None else d * factors.to(d.dtype).unsqueeze(-1)
        d_weight = segment_sum(summands, ids, weight.shape[0]).to(weight.dtype)
    if needs[3]:
        d_factors = (_wide(rows_at(weight, ids)) * d).sum(-1).to(factors.dtype)
    return [d_weight, None, None, d_factors]


pooled: Callable[..., Tensor] = primitive(
    "pooled(Tensor weight, Tensor ids, Tensor offsets, Tensor? factors) -> Tensor",
    pooled_reference,
    "lookup:pooled",
    vjp=_pooled_vjp,
    jvp=linear_jvp(lambda: pooled, (0, 3)),
)


def gathered_reference(weight: Tensor, ids: Tensor) -> Tensor:
    """``[rows, D], [n] -> [n, D]``."""
    return rows_at(weight, ids)  # ten times faster than weight[ids] on CPU


def _gathered_vjp(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    weight, ids = args
    d_weight = segment_sum(cotangents[0], ids, weight.shape[0]) if needs[0] else None
    return [d_weight, None]


gathered: Callable[..., Tensor] = primitive(
    "gathered(Tensor weight, Tensor ids) -> Tensor",
    gathered_reference,
    "lookup:gathered",
    vjp=_gathered_vjp,
    jvp=linear_jvp(lambda: gathered, (0,)),
)
MAX_DIM = 1024


def unsupported(weight: Tensor) -> str | None:
    """Why the kernel cannot read this table; None if it can."""
    return f"{weight.shape[1]} columns, more than {MAX_DIM}" if weight.shape[1] > MAX_DIM else None
