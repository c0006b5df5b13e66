"""What a training step needs to know of other processes that take the same step on other rows: a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor


class Replicas(NamedTuple):
    """Processes with equal dense weights and rows of their own; ``funcrec.shard.replicas`` makes it of a process group.

    Every process must make the same calls in the same order.
    """

    rank: int
    world: int
    total: Callable[[Sequence[float]], list[float]]
    """Sums over the processes, of numbers on the host."""
    summed: Callable[[Callable[..., Any]], Callable[..., Any]]
    """A loss of params and more, with a gradient in params that is summed over the processes."""
    absent: Callable[[TensorDict], TensorDict]
    """That sum, for a process that has no rows and takes part all the same."""
    average: Callable[[list[Tensor], float], list[Tensor]]
    """Means over the processes, weighted; those of weight 0 do not count."""


def alone() -> Replicas:
    """One process."""
    zeros = lambda params: params.apply(torch.zeros_like)  # noqa: E731
    return Replicas(0, 1, list, lambda f: f, zeros, lambda tensors, weight: tensors)
