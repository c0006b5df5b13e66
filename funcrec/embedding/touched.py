"""Which rows of the stacked tables a batch of ids touches: the residue of a lookup that the update needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from funcrec.core.errors import DataError, ShapeError, fail
from funcrec.core.ragged import Ids, Nested, Ragged, segment_sum
from funcrec.embedding.constants import constant
from funcrec.embedding.histories import Steps
from funcrec.embedding.ranges import check_range
from funcrec.embedding.spec import EmbeddingSpec, Lookup, Stack


class StackTouched(NamedTuple):
    """What one stack's update needs: stacked-row numbers in the order of the occurrences, and how each was pooled.

    ``single``: ``[B, F1]`` rows of the features with one id a row. ``bagged``: rows ``[nnz]``, where each bag begins
    ``[F2 · B + 1]`` (feature-major: bag f · B + b) and the factor of each row in its pooled sum (None: 1). ``order``:
    where each lookup of the stack stands among [single..., bagged...]. ``steps``: the sequence lookups.
    """

    single: Tensor | None
    bagged: tuple[Tensor, Tensor, Tensor | None] | None
    order: tuple[int, ...]
    batch: int
    steps: tuple[Steps, ...] = ()


Touched = dict[str, StackTouched]


def batch_size(spec: EmbeddingSpec, ids: Ids) -> int:
    """The number of rows of all features."""
    sizes = {}
    for name in spec.features:
        if name not in ids:
            fail(DataError, f"ids of feature {name!r}", got=f"only {sorted(ids)}", fix="add the feature to the batch")
        x = ids[name]
        ids_of = x if isinstance(x, Tensor) else x.values
        if ids_of.dim() != 1 or ids_of.dtype not in (torch.int64, torch.int32):
            fail(
                ShapeError,
                f"ids of feature {name!r}",
                got=f"{tuple(ids_of.shape)} {ids_of.dtype}",
                expected="int64 [B], or a Ragged of int64 values",
            )
        sizes[name] = len(x)
    if len(set(sizes.values())) != 1:
        fail(ShapeError, "ids: rows per feature", got=sizes, expected="one batch size")
    return next(iter(sizes.values()))


def stacked_rows(stack: Stack, ids: Ids, batch: int, dtype: torch.dtype, check_ids: bool) -> StackTouched:
    """The row numbers of one stack, checked: single-id features as one matrix, ragged ones as one list."""
    nested = [lk.feature for lk in stack.lookups if isinstance(ids[lk.feature], Nested)]
    if nested:
        fail(ShapeError, f"features {nested}", got="a bag of ids a step", expected="ids to pool: list it in a sequence")
    single = [lk for lk in stack.lookups if isinstance(ids[lk.feature], Tensor)]
    bagged = [lk for lk in stack.lookups if isinstance(ids[lk.feature], Ragged)]
    place = {lk: i for i, lk in enumerate([*single, *bagged])}
    order = tuple(place[lk] for lk in stack.lookups)
    matrix = bags = None
    if single:
        columns = torch.stack([ids[lk.feature] for lk in single], dim=1)  # type: ignore[misc]
        sizes, starts = _sizes_and_starts(stack, single, columns.device)
        if check_ids:
            check_range(stack.name, single, columns, sizes)
        matrix = (columns + starts).to(stack.index_dtype)
    if bagged:
        flat = flat_bags(bagged, ids)
        bag = flat.segments()
        of = bag // max(batch, 1)
        sizes, starts = _sizes_and_starts(stack, bagged, bag.device)
        if check_ids:
            check_range(stack.name, bagged, flat.values, sizes[of], of)
        rows = (flat.values + starts[of]).to(stack.index_dtype)
        bags = (rows, flat.offsets, pooling_factors(bagged, flat, bag, dtype))
    return StackTouched(matrix, bags, order, batch)


def _sizes_and_starts(stack: Stack, lookups: list[Lookup], device: torch.device) -> tuple[Tensor, Tensor]:
    """The number of rows of the table of each lookup, and its first row in the stack."""
    rows_of = {t.name: t.rows for t in stack.tables}
    sizes, starts = [rows_of[lk.table] for lk in lookups], [stack.offsets[lk.table] for lk in lookups]
    return constant(sizes, device), constant(starts, device)


def flat_bags(lookups: list[Lookup], ids: Ids) -> Ragged:
    """The bags of all these lookups in one list, those of the first one first; weighted by 1 if others have weights."""
    bags = [x for lk in lookups if isinstance(x := ids[lk.feature], Ragged)]
    values = torch.cat([x.values.long() for x in bags])
    ends, total = [bags[0].offsets[:1]], 0
    for x in bags:
        ends.append(x.offsets[1:] + total)
        total += x.values.shape[0]
    weights = None
    if any(x.weights is not None for x in bags):
        ones = [torch.ones(x.values.shape, device=values.device) if x.weights is None else x.weights for x in bags]
        weights = torch.cat(ones)
    return Ragged(values, torch.cat(ends), weights)


def pooling_factors(lookups: list[Lookup], flat: Ragged, bag: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The factor of each id in the sum of its bag: its weight, over the total of the bag where the mean is taken."""
    factors = None if flat.weights is None else flat.weights.to(dtype)
    if any(lk.pooling == "mean" for lk in lookups):
        n = len(flat)
        total = flat.lengths.to(dtype) if factors is None else segment_sum(factors, bag, n)
        share = torch.where(total == 0, 0.0, 1.0 / total).reshape(len(lookups), -1)
        if any(lk.pooling == "sum" for lk in lookups):
            mean = constant([lk.pooling == "mean" for lk in lookups], share.device).bool()
            share = torch.where(mean.unsqueeze(1), share, 1.0)
        share = share.reshape(n).index_select(0, bag)
        factors = share if factors is None else factors * share
    return factors
