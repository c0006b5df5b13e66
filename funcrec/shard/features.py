"""Ids of a batch as torchrec's KeyedJaggedTensor: keys are lookups, lengths are bags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from funcrec.core.ragged import Ids, Nested, Ragged
from funcrec.embedding.ranges import check_range
from funcrec.embedding.spec import EmbeddingSpec, Lookup
from funcrec.embedding.touched import flat_bags, pooling_factors
from funcrec.shard.collections import name_of
from funcrec.shard.group import message_device, world_size


def agree(rows: int, weighted: bool, group: dist.ProcessGroup | None) -> tuple[int, bool]:
    """The largest batch of all ranks, and whether any of them weighs its ids: one all-reduce, read by the host."""
    if world_size(group) == 1:
        return rows, weighted
    most = torch.tensor([rows, int(weighted)], device=message_device(group))
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
    largest, some = most.tolist()
    return largest, bool(some)


def has_weights(lookups: Sequence[Lookup], ids: Ids) -> bool:
    """Whether the sums of these bags have factors: means, and ids with weights."""
    return any(
        lk.pooling == "mean" or (isinstance(x := ids[lk.feature], Ragged) and x.weights is not None) for lk in lookups
    )


def bags_of(x: Tensor | Ragged | Nested) -> Ragged:
    """The ids of a lookup, one bag a row: of a history all ids of its steps."""
    if isinstance(x, Tensor):
        return Ragged(x, torch.arange(x.shape[0] + 1, device=x.device))
    return x if isinstance(x, Ragged) else Ragged(x.values, x.bags.offsets[x.offsets])


def check_ids(spec: EmbeddingSpec, lookup: Lookup, values: Tensor) -> None:
    """Raise on an id outside its table: a rank that does not have it would read another row, or none."""
    rows = next(t.rows for t in spec.tables if t.name == lookup.table)
    check_range(spec.stack_of[lookup.table], [lookup], values, rows)


def keyed(lookups: Sequence[Lookup], ids: Ids, rows: int, *, by_row: bool, weighted: bool) -> Any:
    """The ids of these lookups, each padded by empty bags to ``rows`` rows: ranks exchange batches of one size.

    Args:
        by_row: rows are looked up one by one, and factors are left to whoever sums them.
        weighted: hand over factors, those of a mean included.
    """
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    flat = flat_bags(list(lookups), {lk.feature: bags_of(ids[lk.feature]) for lk in lookups})
    factors = None
    if weighted:
        factors = pooling_factors(list(lookups), flat, flat.segments(), torch.float32)
        factors = torch.ones(flat.values.shape, device=flat.values.device) if factors is None else factors
    lengths = rearrange(flat.lengths, "(f b) -> f b", f=len(lookups))
    lengths = F.pad(lengths, (0, rows - lengths.shape[1])).flatten().int()
    names = [name_of(lk, by_row) for lk in lookups]
    return KeyedJaggedTensor(keys=names, values=flat.values, lengths=lengths, weights=factors, stride=rows)
