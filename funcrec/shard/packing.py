"""Which ranks hold the shards, once every table's option is chosen: greedy, longest time first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from funcrec.shard.costs import TIMES
from funcrec.shard.options import Option
from funcrec.shard.topology import Topology

By = Literal["time", "both", "bytes"]
Places = tuple[int, ...]  # the first rank of each block of an option


class Order(NamedTuple):
    """What the greedy pass goes by: which table is next, and which place is best, of those with room."""

    next: By
    place: By


# The first makes the shortest step where memory is plenty, the last packs tightest.
ORDERS = (
    Order("time", "time"),
    Order("both", "time"),
    Order("bytes", "time"),
    Order("both", "both"),
    Order("bytes", "bytes"),
)


class Packing(NamedTuple):
    """``places``: of each table. ``load``: ``[n, 6]`` of each rank."""

    places: tuple[Places, ...]
    load: np.ndarray

    @property
    def step(self) -> float:
        """Seconds of lookup, exchange and update, each as long as its slowest rank: collectives wait for all."""
        return float(self.load[:, TIMES].max(0).sum())


class NoRoom(NamedTuple):
    """The table that no rank had room for, its bytes on one rank, and the most that was free where it may lie."""

    table: int
    needed: float
    free: float


class Ranks:
    """The load of all ranks while tables are put on them and taken off again."""

    def __init__(self, topology: Topology, capacity: float) -> None:
        self.topology, self.capacity = topology, capacity
        self.load = np.zeros((topology.ranks, 6))
        self.time, self.used = np.zeros(topology.ranks), np.zeros(topology.ranks)

    def put(self, option: Option, places: Places, sign: int = 1) -> None:
        """Add an option's costs to the ranks from each place on; ``sign = -1`` takes them off."""
        for place in places:
            for count, cost, size, time in option.runs:
                self.load[place : place + count] += sign * cost
                self.time[place : place + count] += sign * time
                self.used[place : place + count] += sign * size
                place += count

    def find(self, option: Option, by: By = "time") -> Places | float:
        """The best places with room for each block; or, where there are too few, the most bytes that one has free."""
        after, local = self.used + option.most_bytes, self.topology.local
        busy = self.time
        if option.span == "all":
            after = self.used + option.bytes_by_rank
            return (0,) if after.max() <= self.capacity else self.capacity - float(self.used.max())
        if option.span == "host":
            after = (self.used.reshape(-1, local) + option.bytes_by_rank).max(1)
            busy = busy.reshape(-1, local).max(1)
        fits = after <= self.capacity
        if np.count_nonzero(fits) < option.blocks:
            return self.capacity - float(after.min() - option.most_bytes)
        if by == "both":
            busy = np.maximum(busy / (busy.max() or 1.0), after / self.capacity)
        score = np.where(fits, after if by == "bytes" else busy, np.inf)
        if option.blocks == 1:
            picked = [int(score.argmin())]
        else:
            picked = sorted(score.argsort(kind="stable")[: option.blocks].tolist())
        return tuple(p * local if option.span == "host" else p for p in picked)


def pack(options: Sequence[Option], topology: Topology, capacity: float, order: Order = ORDERS[0]) -> Packing | NoRoom:
    """Give each shard a rank with room for it, so that the busiest rank is as little busy as a greedy pass can make it.

    Shardings over all ranks come first, as they have no choice; then those of a host, then those of a rank. Of these,
    the longest first, each to the least busy place with room; ``order`` may take the larger of the shares of time and
    memory instead of time, or the bytes. Column shards of one table lie on ranks (or hosts) of their own.

    Args:
        options: the chosen option of each table.
        capacity: bytes of each rank for tables.
    """
    ranks = Ranks(topology, capacity)
    places: list[Places] = [()] * len(options)
    key = _keys(options, topology, capacity, order.next)
    for span in ("all", "host", "rank"):
        for i in sorted((i for i, o in enumerate(options) if o.span == span), key=lambda i: -key[i]):
            found = ranks.find(options[i], order.place)
            if isinstance(found, float):
                return NoRoom(i, options[i].most_bytes, found)
            ranks.put(options[i], found)
            places[i] = found
    return Packing(tuple(places), ranks.load)


def pack_best(options: Sequence[Option], topology: Topology, capacity: float) -> Packing | NoRoom:
    """By time where that has room, else the best of the other orders, each as in :func:`pack`."""
    first = pack(options, topology, capacity)
    if isinstance(first, Packing):
        return first
    packed = [pack(options, topology, capacity, order) for order in ORDERS[1:]]
    return min((p for p in packed if isinstance(p, Packing)), key=lambda p: p.step, default=first)


def _keys(options: Sequence[Option], topology: Topology, capacity: float, by: By) -> list[float]:
    if by == "time":
        return [o.most_time for o in options]
    if by == "bytes":
        return [o.most_bytes for o in options]
    mean = sum(o.total_time for o in options) / topology.ranks or 1.0
    return [max(o.most_time / mean, o.most_bytes / capacity) for o in options]
