"""The ranks of a process group as the replicas that ``make_step`` trains with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from funcrec.core.replicas import Keeper, Replicas
from funcrec.shard.dense import BUCKET_BYTES, absent, replicated
from funcrec.shard.group import message_device, rank_in, world_size
from funcrec.shard.merge import gather


def replicas(
    group: dist.ProcessGroup | None = None, *, bucket_bytes: int = BUCKET_BYTES, keeper: Keeper | None = None
) -> Replicas:
    """Dense weights on every rank, their gradients summed by all-reduces that overlap with backward.

        step = make_step(model, sharded_store(spec, rule, plan), optimizer, loss, replicas=replicas())
        for batch in together(data.batches(64)):
            state, info = step.train(state, batch)

    Args:
        group: the ranks; None: all of them.
        bucket_bytes: see :func:`~funcrec.shard.dense.replicated`.
        keeper: of a sharded store's tables, :func:`~funcrec.shard.keeping.keeper`: what ``fit`` keeps its best weights
            with, and ``train.checkpoint`` writes and reads them with.
    """

    def total(numbers: Sequence[float]) -> list[float]:
        sums = torch.tensor(list(numbers), dtype=torch.float64, device=message_device(group))
        if world_size(group) > 1:
            dist.all_reduce(sums, group=group)
        return sums.tolist()

    def collect(number: float) -> Callable[[], float]:
        sums = torch.tensor([number], dtype=torch.float64, device=message_device(group))
        if world_size(group) == 1:
            return lambda: number
        work = dist.all_reduce(sums, group=group, async_op=True)

        def read() -> float:
            work.wait()
            return float(sums)

        return read

    def add(tensors: Sequence[Tensor]) -> None:
        if world_size(group) > 1:
            for work in [dist.all_reduce(x, group=group, async_op=True) for x in tensors]:
                work.wait()  # on a GPU its stream waits, not the host

    def average(tensors: list[Tensor], weight: float) -> list[Tensor]:
        (whole,) = total([weight])
        if not whole:
            return tensors
        flat = torch.cat([t.reshape(-1).double() for t in tensors]) * (weight / whole)
        if world_size(group) > 1:
            dist.all_reduce(flat, group=group)
        parts = flat.split([t.numel() for t in tensors])
        return [p.reshape(t.shape).to(t.dtype) for p, t in zip(parts, tensors, strict=True)]

    return Replicas(
        rank=rank_in(group),
        world=world_size(group),
        total=total,
        collect=collect,
        summed=lambda f: replicated(f, group, bucket_bytes=bucket_bytes),
        absent=lambda params: absent(params, group, bucket_bytes=bucket_bytes),
        add=add,
        average=average,
        gathered=lambda value: gather(value, group),
        keeper=keeper,
    )
