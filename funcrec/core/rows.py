"""Rows of a batch: taken out, put together, and cut into pieces of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.ragged import Nested, Ragged, concat_ids


def select(batch: Batch, rows: Tensor) -> Batch:
    """The rows with these indices, in this order."""
    ids = {name: x[rows] if isinstance(x, Tensor) else x.select(rows) for name, x in batch.ids.items()}
    return Batch(ids, batch.features[rows])


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """The rows in [start, stop), 0 <= start <= stop <= B, without a copy of their values."""
    ids = {name: _cut(x, start, stop) for name, x in batch.ids.items()}
    return Batch(ids, batch.features[start:stop])


def _cut(x: Tensor | Ragged | Nested, start: int, stop: int) -> Tensor | Ragged | Nested:
    if isinstance(x, Tensor):
        return x[start:stop]
    offsets = x.offsets[start : stop + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    if isinstance(x, Nested):
        bags = _cut(x.bags, first, last)
        assert isinstance(bags, Ragged)
        return Nested(bags, offsets - offsets[0])
    inside = slice(first, last)
    return Ragged(x.values[inside], offsets - offsets[0], None if x.weights is None else x.weights[inside])


def concat(batches: Sequence[Batch]) -> Batch:
    """All rows, one batch after the other; the batches have the same fields."""
    if len(batches) == 1:
        return batches[0]
    ids = {name: concat_ids([b.ids[name] for b in batches]) for name in batches[0].ids}
    return Batch(ids, TensorDict.cat([b.features for b in batches], dim=0))


def regroup(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows in batches of exactly ``size``, the last one with what is left; holds fewer than ``size`` rows
    beside the batch at hand."""
    held: list[Batch] = []
    count = 0
    for batch in batches:
        start = 0
        while count + len(batch) - start >= size:
            stop = start + size - count
            yield concat([*held, cut(batch, start, stop)])
            held, count, start = [], 0, stop
        if start < len(batch):
            held.append(cut(batch, start, len(batch)))
            count += len(batch) - start
    if held:
        yield concat(held)
