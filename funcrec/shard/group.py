"""What a process group is, where there may be none: one process alone is a world of 1."""

from __future__ import annotations

import torch
import torch.distributed as dist


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Ranks in the group (None: all of them); 1 where torch.distributed is not initialized."""
    return dist.get_world_size(group) if dist.is_initialized() else 1


def rank_in(group: dist.ProcessGroup | None = None) -> int:
    """This process in the group; 0 where torch.distributed is not initialized."""
    return dist.get_rank(group) if dist.is_initialized() else 0


def message_device(group: dist.ProcessGroup | None = None) -> torch.device:
    """Where small numbers that the host must read travel: the CPU wherever the group has a backend for it.

    Reading one from a GPU would wait for all the work queued there.
    """
    if not dist.is_initialized() or "cpu:" in dist.get_backend_config(group):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
