"""What a training step needs to know of other processes that take the same step on other rows: a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

Tables = dict[str, Any]  # of a store: see funcrec.embedding.store


class Kept(Protocol):
    """A copy of the weights of tables that lie in many processes: this process's part of it."""

    def restored(self, tables: Tables) -> Tables:
        """The tables with these weights, written into their memory."""
        ...


class Keeper(NamedTuple):
    """How tables that lie in many processes are kept, in memory and in files: ``funcrec.shard.keeper`` makes it.

    All processes make the same calls. What is read is written into the memory of the tables given.
    """

    memory: Callable[[Tables], TensorDict]
    """The weights that lie in this process, by name: to be looked at."""
    kept: Callable[[Tables], Any]
    """A copy of their weights, a :class:`Kept`; of local tables, a TensorDict in place of theirs."""
    write: Callable[[Path, Tables, Any], None]
    """Tables and a copy of earlier weights (or None), into a new folder that all processes see."""
    read: Callable[[Path, Tables, bool], tuple[Tables, Any]]
    """Such a folder into these tables; with True the copy too, else None."""
    adopt: Callable[[Tables, Tables, Any], tuple[Tables, Any]]
    """``(tables, saved, weights)``: the same of local tables ``saved`` and a copy of their weights (or None)."""


class Replicas(NamedTuple):
    """Processes with equal dense weights and rows of their own; ``funcrec.shard.replicas`` makes it of a process group.

    Every process must make the same calls in the same order.
    """

    rank: int
    world: int
    total: Callable[[Sequence[float]], list[float]]
    """Sums over the processes, of numbers on the host."""
    collect: Callable[[float], Callable[[], float]]
    """Starts a sum of one number over the processes; the call of the result waits for it."""
    summed: Callable[[Callable[..., Any]], Callable[..., Any]]
    """A loss of params and more, with a gradient in params that is summed over the processes."""
    absent: Callable[[TensorDict], TensorDict]
    """That sum, for a process that has no rows and takes part all the same."""
    add: Callable[[Sequence[Tensor]], None]
    """Sums over the processes, written into these tensors, which have the same shapes everywhere."""
    average: Callable[[list[Tensor], float], list[Tensor]]
    """Means over the processes, weighted; those of weight 0 do not count."""
    gathered: Callable[[Any], list[Any]]
    """A value of every process, in their order: tensors in nested dicts, tuples and lists, and what can be pickled."""
    keeper: Keeper | None = None
    """Of the tables, where they lie in many processes; None where each process has a copy."""


def alone() -> Replicas:
    """One process."""
    zeros = lambda params: params.apply(torch.zeros_like)  # noqa: E731
    same = lambda tensors: tensors  # noqa: E731
    return Replicas(
        0,
        1,
        list,
        lambda x: lambda: x,
        lambda f: f,
        zeros,
        same,
        lambda tensors, weight: tensors,
        lambda value: [value],
    )
