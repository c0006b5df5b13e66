"""Tables that every rank has a copy of: their row gradients, brought together so that all copies take one step."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from funcrec.embedding.rows import Gradient, RowGrad, sum_duplicates
from funcrec.shard.group import world_size


def gathered(x: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """The first ``counts[r]`` rows of each rank's x, in the order of the ranks."""
    most = max(counts)
    padded = F.pad(x, (0,) * (2 * x.dim() - 1) + (most - x.shape[0],))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([p[:n] for p, n in zip(parts, counts, strict=True)])


def everybodys(own: Gradient, group: dist.ProcessGroup | None) -> Gradient:
    """The summed rows of all ranks. Every rank gets the same, in the same order, and adds it up alike."""
    ranks = world_size(group)
    if ranks == 1:
        return own
    out = {}
    for name, g in own.items():
        rows, values, *_ = sum_duplicates(g)
        assert rows is not None
        sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(ranks)]
        dist.all_gather(sizes, torch.tensor([rows.shape[0]], device=rows.device), group=group)
        counts = [int(n) for n in torch.cat(sizes).tolist()]
        out[name] = RowGrad(gathered(rows, counts, group), gathered(values, counts, group))
    return out
