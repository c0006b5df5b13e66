"""Uneven data: ranks whose batches differ in size and in number train as one process on the rows of all of them.

    for batch in together(data.batches(64), group):       # None once this rank has no more
        w = share(0.0 if batch is None else len(batch), group)
        ...                                                # a step that every rank takes part in: gradient of w * mean

Every rank takes as many steps as the longest, so that no row is left out; a rank without rows takes part with none, so
that no row counts twice and nobody waits for it in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from funcrec.core.errors import DataError, fail
from funcrec.shard.group import message_device, world_size

T = TypeVar("T")


def share(rows: float | Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """This rank's share of the global batch, ``rows / Σ_ranks rows``, a float64 scalar: one all-reduce of one number.

    A mean over this rank's rows, times its share, summed over the ranks, is the mean over all rows. Where all ranks
    have 0 rows the shares are 0.

    Args:
        rows: number of rows, or the sum of sample weights where the mean is weighted. A tensor stays on its device, and
            nothing waits for it.
        group: the ranks; None: all of them.

    Raises:
        DataError: for a number that is negative or not finite (a tensor is not looked at).
    """
    if not isinstance(rows, Tensor) and not 0.0 <= rows < float("inf"):
        fix = "hand over a count, or a sum of weights that are not negative"
        fail(DataError, "share: rows", got=rows, expected="a finite number, at least 0", fix=fix)
    device = rows.device if isinstance(rows, Tensor) else message_device(group)
    mine = torch.as_tensor(rows, dtype=torch.float64, device=device).detach()
    total = mine.clone()
    if world_size(group) > 1:
        dist.all_reduce(total, group=group)
    return torch.where(total > 0, mine / total, 0.0)


class _Announced(NamedTuple):
    """The next item of this rank, and the sums over ranks of (has one, failed to read one), still under way."""

    item: Any
    error: Exception | None
    sums: Tensor
    work: Any


def _raise(error: Exception | None, group: dist.ProcessGroup | None) -> NoReturn:
    """The error of this rank, or that of the first rank that has one: all ranks come here together."""
    messages: list[str | None] = [None] * world_size(group)
    dist.all_gather_object(messages, error and f"{type(error).__name__}: {error}", group)
    if error is not None:
        raise error
    rank, message = next((r, m) for r, m in enumerate(messages) if m is not None)
    fail(DataError, f"the data of rank {rank} could not be read ({message})", fix="look at the traceback of that rank")


def together(batches: Iterable[T], group: dist.ProcessGroup | None = None) -> Iterator[T | None]:
    """The batches of this rank in their order, and None from their end on until no rank has one left.

    Each step costs an all-reduce of two numbers, started before the batch ahead of it is handed out: it is there by the
    time it is needed. So one batch is read ahead. An error in the reading is raised where its batch would have come:
    on its own rank as it is, on all others as a DataError that names rank and message; nobody is left waiting.

    All ranks must stop together: one that leaves the loop early leaves the others to wait for it.

    Raises:
        DataError: the batches of another rank failed.
    """
    if world_size(group) == 1:
        yield from batches
        return
    items, device = iter(batches), message_device(group)

    def announce(over: bool) -> _Announced:
        item, error = None, None
        try:
            item = None if over else next(items, None)
        except Exception as e:
            error = e
        sums = torch.tensor([item is not None, error is not None], dtype=torch.int64, device=device)
        return _Announced(item, error, sums, dist.all_reduce(sums, group=group, async_op=True))

    try:
        ahead = announce(over=False)
        while True:
            now = ahead
            now.work.wait()
            having, failed = now.sums.tolist()
            if failed:
                _raise(now.error, group)
            if not having:
                return
            ahead = announce(over=now.item is None)
            yield now.item
            del now
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
