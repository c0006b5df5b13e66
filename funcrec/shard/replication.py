"""The ranks of a process group as the replicas that ``make_step`` trains with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from funcrec.core.replicas import Replicas
from funcrec.shard.dense import BUCKET_BYTES, absent, replicated
from funcrec.shard.group import message_device, rank_in, world_size


def replicas(group: dist.ProcessGroup | None = None, *, bucket_bytes: int = BUCKET_BYTES) -> Replicas:
    """Dense weights on every rank, their gradients summed by all-reduces that overlap with backward.

        step = make_step(model, sharded_store(spec, rule, plan), optimizer, loss, replicas=replicas())
        for batch in together(data.batches(64)):
            state, info = step.train(state, batch)

    Args:
        group: the ranks; None: all of them.
        bucket_bytes: see :func:`~funcrec.shard.dense.replicated`.
    """

    def total(numbers: Sequence[float]) -> list[float]:
        sums = torch.tensor(list(numbers), dtype=torch.float64, device=message_device(group))
        if world_size(group) > 1:
            dist.all_reduce(sums, group=group)
        return sums.tolist()

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
        summed=lambda f: replicated(f, group, bucket_bytes=bucket_bytes),
        absent=lambda params: absent(params, group, bucket_bytes=bucket_bytes),
        average=average,
    )
