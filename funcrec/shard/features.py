"""Ids of a batch as torchrec's KeyedJaggedTensor: keys are lookups, lengths are bags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from funcrec.core.ragged import Ids, Nested, Ragged
from funcrec.embedding.constants import constant
from funcrec.embedding.ranges import check_range
from funcrec.embedding.spec import EmbeddingSpec, Lookup
from funcrec.embedding.touched import flat_bags, pooling_factors
from funcrec.shard.collections import name_of
from funcrec.shard.group import message_device, world_size


class Agreed(NamedTuple):
    """What all ranks know of all ranks' batches of one step."""

    rows: int
    """Of the largest."""
    weighted: bool
    """Whether any weighs the ids of its bags."""
    even: bool
    """Whether all have as many rows, some, and one id in each bag."""


def agree(rows: int, weighted: bool, single: bool, group: dist.ProcessGroup | None) -> Callable[[], Agreed]:
    """One all-reduce, under way when this returns; the call of the result waits for it."""
    if world_size(group) == 1:
        return lambda: Agreed(rows, weighted, single and rows > 0)
    most = torch.tensor([rows, weighted, -rows, not single], dtype=torch.int64, device=message_device(group))
    work = dist.all_reduce(most, dist.ReduceOp.MAX, group=group, async_op=True)

    def read() -> Agreed:
        work.wait()
        largest, some, smallest, many = most.tolist()
        return Agreed(largest, bool(some), -smallest == largest > 0 and not many)

    return read


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


def keyed(
    spec: EmbeddingSpec,
    lookups: Sequence[Lookup],
    ids: Ids,
    rows: int,
    *,
    by_row: bool,
    weighted: bool,
    check: bool,
) -> Any:
    """The ids of these lookups, each padded by empty bags to ``rows`` rows: ranks exchange batches of one size.

    Args:
        by_row: rows are looked up one by one, and factors are left to whoever sums them.
        weighted: hand over factors, those of a mean included.
        check: raise on an id outside its table: a rank that does not have it would read another row, or none.
    """
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    names = [name_of(lk, by_row) for lk in lookups]
    plain = [x for lk in lookups if isinstance(x := ids[lk.feature], Tensor)]
    if len(plain) == len(lookups) and not weighted:
        return _one_id_a_row(spec, lookups, plain, names, rows, check)
    flat = flat_bags(list(lookups), {lk.feature: bags_of(ids[lk.feature]) for lk in lookups})
    bag = flat.segments() if check or weighted else None
    if check:
        assert bag is not None
        of = bag // max(len(flat) // len(lookups), 1)
        check_ids(spec, lookups, flat.values, of)
    factors = None
    if weighted:
        assert bag is not None
        factors = pooling_factors(list(lookups), flat, bag, torch.float32)
        factors = torch.ones(flat.values.shape, device=flat.values.device) if factors is None else factors
    lengths = rearrange(flat.lengths, "(f b) -> f b", f=len(lookups))
    lengths = F.pad(lengths, (0, rows - lengths.shape[1])).flatten().int()
    return KeyedJaggedTensor(keys=names, values=flat.values, lengths=lengths, weights=factors, stride=rows)


def _one_id_a_row(
    spec: EmbeddingSpec, lookups: Sequence[Lookup], plain: list[Tensor], names: list[str], rows: int, check: bool
) -> Any:
    """As :func:`keyed`: all lengths are known, so nobody has to read them from a GPU."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    n = plain[0].shape[0]
    values = torch.cat(plain)
    if check:
        check_ids(spec, lookups, values.view(len(lookups), n).T, None)
    lengths = torch.ones(len(lookups), n, dtype=torch.int32, device=values.device)
    ends = [n * i for i in range(len(lookups) + 1)]
    return KeyedJaggedTensor(
        keys=names,
        values=values.long(),
        lengths=F.pad(lengths, (0, rows - n)).flatten(),
        stride=rows,
        length_per_key=[n] * len(lookups),
        offset_per_key=ends,
    )


def check_ids(spec: EmbeddingSpec, lookups: Sequence[Lookup], values: Tensor, of: Tensor | None) -> None:
    """The ids of all lookups in one go: column by column, or ``of`` which lookup each is."""
    rows = {t.name: t.rows for t in spec.tables}
    sizes = constant([rows[lk.table] for lk in lookups], values.device)
    if values.numel():
        check_range("sharded tables", list(lookups), values, sizes if of is None else sizes[of], of)
