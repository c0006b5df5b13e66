"""Metrics over all ranks: their states are brought together and merged, in the order of the ranks.

    state = metric.update(state, predictions, labels)             # on each rank, of its own rows
    value = metric.compute(merge_states(metric, state, group))    # of all rows, the same on all ranks

A state travels as it is, whatever its size on each rank: sums add up, and metrics of rows see every row.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TypeVar, cast

import optree
import torch
import torch.distributed as dist
from torch import Tensor

from funcrec.metrics import Metric, State
from funcrec.shard.group import message_device, rank_in, world_size

T = TypeVar("T")


@dataclass(frozen=True)
class _Slot:
    """The place of a tensor in the bytes of its rank."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype
    device: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _pack(value: T, device: torch.device) -> tuple[T, Tensor]:
    """``value`` with slots in place of its tensors, and their bytes."""
    parts: list[Tensor] = []
    offset = 0

    def slot(x: object) -> object:
        nonlocal offset
        if not isinstance(x, Tensor):
            return x
        made = _Slot(offset, x.shape, x.dtype, x.device.type)
        parts.append(x.detach().contiguous().reshape(-1).view(torch.uint8).to(device))
        offset += made.bytes
        return made

    skeleton = optree.tree_map(slot, value)  # type: ignore[arg-type]
    return cast(T, skeleton), torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8, device=device)


def _unpack(skeleton: T, raw: Tensor) -> T:
    def tensor(s: object) -> object:
        if not isinstance(s, _Slot):
            return s
        # A copy: it starts where its dtype may start, and does not keep the bytes of all the others alive.
        x = raw[s.offset : s.offset + s.bytes].clone().view(s.dtype).view(s.shape)
        return x.to(torch.device(s.device, torch.cuda.current_device()) if s.device == "cuda" else s.device)

    return cast(T, optree.tree_map(tensor, skeleton))  # type: ignore[arg-type]


def gather(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """``value`` of every rank, in rank order: nested dicts, tuples and lists of tensors (and of what can be pickled).

    Shapes, dtypes and structures may differ from rank to rank. Tensors arrive bit for bit, on this rank's device of the
    type that they were on. One exchange of structures, then one broadcast a rank of the bytes of all its tensors.
    """
    world, device = world_size(group), message_device(group)
    if world == 1:
        return [value]
    skeleton, mine = _pack(value, device)
    headers: list = [None] * world
    dist.all_gather_object(headers, (skeleton, len(mine)), group)
    gathered = []
    for rank, (theirs, size) in enumerate(headers):
        raw = mine if rank == rank_in(group) else torch.empty(size, dtype=torch.uint8, device=device)
        if size:
            dist.broadcast(raw, group=group, group_src=rank)
        gathered.append(_unpack(theirs, raw))
    return gathered


def merge_states(metric: Metric, state: State, group: dist.ProcessGroup | None = None) -> State:
    """The states of all ranks in one: that of a single process which saw the rows of rank 0, then those of rank 1, …

    Every rank folds the same states in the same order and gets the same bits. The result is for ``compute``: updates go
    on from the rank's own state, or rows would count once for every rank. Ranks without rows bring ``metric.init()``.

    Several metrics take one exchange: ``gather({name: state, …})``, then fold each with its ``merge``.

    Raises:
        DataError: on every rank, where ``metric.merge`` cannot merge two of the states.
    """
    return functools.reduce(metric.merge, gather(state, group))
