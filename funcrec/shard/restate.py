"""Statistics of one number a row and column shard, for other column shards than they were made for.

A row-wise rule has the mean of something over the columns of a row (of squared gradients, in row-wise Adagrad). Under
column shards each has the mean over its own columns. The mean over several of them is exact: that of their means,
weighted by their columns. A part of a shard gets the mean of the whole of it, which is all that is known. Both are one
formula, and the mean over all columns of a row stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

Columns = tuple[tuple[int, int], ...]
"""Where each column shard of a table begins and ends, ascending."""


def columns_of(blocks: Iterable[tuple[Any, Any]]) -> Columns:
    """Those of a table of blocks ``(offsets, sizes)``, each ``(row, column)``."""
    return tuple(sorted({(int(at[1]), int(at[1]) + int(size[1])) for at, size in blocks if int(size[0])}))


def restated(values: Tensor, held: Columns, wanted: tuple[int, int]) -> Tensor:
    """The means over the columns ``wanted`` of each row, ``[rows]``, from those over ``held``, ``[shards, rows]``.

    ``Σ_s |s ∩ wanted| · values[s] / |wanted|``, exact where ``wanted`` is made of whole shards.
    """
    start, stop = wanted
    shared = [max(0, min(stop, b) - max(start, a)) for a, b in held]
    weights = torch.tensor(shared, dtype=torch.float64, device=values.device) / (stop - start)
    return (weights.unsqueeze(1) * values.double()).sum(dim=0).to(values.dtype)


def weight_name(name: str) -> str:
    """The name of the table that a slot belongs to, ``tables.<table>.<slot>``."""
    return f"{name.rpartition('.')[0]}.weight"


def wanted_columns(name: str, named: Mapping[str, Any]) -> Columns:
    """The column shards of the table of this slot, as it lies now; () where that is not known."""
    weight = named.get(weight_name(name))
    if weight is None:
        return ()
    if not hasattr(weight, "local_shards"):
        return ((0, int(weight.shape[1])),)
    return columns_of((m.shard_offsets, m.shard_sizes) for m in weight.metadata().shards_metadata)


def fill_restated(name: str, named: Mapping[str, Any], whole: Tensor, held: Columns) -> None:
    """Write a slot from all of its numbers, ``[shards · rows]``, of column shards ``held``.

    torchrec lays the statistics of the column shards of a table one after another, the rows of each ascending.
    """
    target, wanted = named[name], wanted_columns(name, named)
    rows = whole.numel() // len(held)
    values = whole.view(len(held), rows)
    if not hasattr(target, "local_shards"):
        target.copy_(restated(values, held, wanted[0]))
        return
    for shard in target.local_shards():
        (offset,), (count,) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
        if count:
            block, first = divmod(offset, rows)
            shard.tensor.copy_(restated(values[:, first : first + count], held, wanted[block]))
