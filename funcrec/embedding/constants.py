"""Whole numbers that a spec fixes, as small tensors: row offsets, table sizes, orders of columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_held: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}


def constant(numbers: Sequence[int], device: torch.device) -> Tensor:
    """``numbers`` as int64, not to be written into.

    A GPU gets them once: every copy from a list makes the host wait for all work before it, and no CUDA graph can
    record one.
    """
    if device.type != "cuda" or torch.compiler.is_compiling():
        return torch.tensor(numbers, dtype=torch.int64, device=device)
    at = (tuple(numbers), device)
    if at not in _held:
        made = torch.tensor(numbers, dtype=torch.int64, device=device)
        if type(made) is not Tensor:  # of a mode that traces
            return made
        _held[at] = made
    return _held[at]
