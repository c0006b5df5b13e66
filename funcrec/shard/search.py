"""From the options of all tables to one plan: proposals by dynamic programming, packed, the best one improved.

The least total time (:mod:`funcrec.shard.dynamic`) is the best mean over ranks, but one long shard can still hold up
everybody, and a large one may find no room. So there is a proposal for each of several limits on the longest shard,
from none to a tenth of the mean, and where ranks cannot hold one, others of less memory and of smaller shards. Each is
packed (:mod:`funcrec.shard.packing`); those of the shortest steps are improved (:mod:`funcrec.shard.improve`), and of
the best a few tables are rearranged together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from funcrec.shard.dynamic import frontier
from funcrec.shard.improve import Chosen, Found, improve, rearrange
from funcrec.shard.options import Option
from funcrec.shard.packing import NoRoom, Packing, pack_best
from funcrec.shard.topology import Topology

_LONGEST = (np.inf, 16, 8, 4, 3, 2, 1.5, 1.2, 1, 0.8, 0.6, 0.4, 0.2, 0.1)  # limits of a shard, in means of a rank
_LARGEST = (1, 0.5, 0.25, 0.1, 0.03)  # the same, in shares of a rank's capacity
_STARTS, _MANY = 3, 200  # plans improved; one alone of more tables than that, whose differences average out
_SMALLER = 6  # proposals of less memory, for each pair of limits whose first does not fit


def search(
    options: Sequence[Sequence[Option]], topology: Topology, capacity: float, bins: int = 1000
) -> Found | NoRoom:
    """The best plan found; or, where none was, what the last try had no room for.

    Args:
        options: of each table, those that fit on ranks of this capacity at all.
        capacity: bytes of each rank for tables.
        bins: of :func:`funcrec.shard.dynamic.frontier`.
    """
    tried: dict[Chosen, Packing | NoRoom] = {}

    def fits(chosen: Chosen) -> bool:
        if chosen not in tried:
            tried[chosen] = pack_best([o[c] for o, c in zip(options, chosen, strict=True)], topology, capacity)
        return isinstance(tried[chosen], Packing)

    for largest in _LARGEST:
        roomy = True
        for proposals in _proposals(options, topology, capacity, largest, bins):
            # The fastest of its limits that fits; the others are for when it does not.
            for chosen in proposals:
                if fits(chosen):
                    break
                roomy = False
        if roomy:
            break
    for chosen in _uniform(options):
        fits(chosen)
    # What leaves each rank most room: the smallest shards, and the least memory in all.
    fits(_least(options, "most_bytes"))
    fits(_least(options, "total_bytes"))
    found = [Found(chosen, p) for chosen, p in tried.items() if isinstance(p, Packing)]
    if not found:
        return next(p for p in reversed(tried.values()) if isinstance(p, NoRoom))
    starts = sorted(found, key=lambda f: f.packing.step)[: _STARTS if len(options) <= _MANY else 1]
    best = min((improve(f, options, topology, capacity) for f in starts), key=lambda f: f.packing.step)
    return rearrange(best, options, topology, capacity)


def _proposals(
    options: Sequence[Sequence[Option]], topology: Topology, capacity: float, largest: float, bins: int
) -> Iterator[Iterator[Chosen]]:
    """For each limit on the longest shard, proposals of falling memory."""
    mean = sum(min(o.total_time for o in os) for os in options) / topology.ranks
    facts = {id(os): np.array([(o.total_bytes, o.total_time, o.most_time, o.most_bytes) for o in os]) for os in options}
    before: list[tuple[int, ...]] | None = None
    for longest in _LONGEST:
        within = {key: _within(f, longest * mean, largest * capacity) for key, f in facts.items()}
        kept = [within[id(os)] for os in options]
        if kept == before:
            continue
        before = kept
        pairs = [facts[id(os)][list(k), :2] for os, k in zip(options, kept, strict=True)]
        made = frontier(pairs, capacity * topology.ranks, bins)
        if made is not None:
            yield (tuple(k[c] for k, c in zip(kept, made.pick(i), strict=True)) for i in _falling(made.bytes))


def _within(facts: np.ndarray, longest: float, largest: float) -> tuple[int, ...]:
    """The options with shards within both limits, as far as there are any: size first."""
    time, size = facts[:, 2], facts[:, 3]
    small = np.flatnonzero(size <= max(largest, float(size.min())))
    return tuple(small[time[small] <= max(longest, float(time[small].min()))].tolist())


def _falling(sizes: np.ndarray) -> list[int]:
    """Indices from the last to the first, at most a few more than one, evenly in memory."""
    steps = np.linspace(sizes[-1], sizes[0], _SMALLER + 1)
    return list(dict.fromkeys(int(np.searchsorted(sizes, s, side="right")) - 1 for s in steps))


def _uniform(options: Sequence[Sequence[Option]]) -> Iterator[Chosen]:
    """One kind for all tables, alone and with data-parallel ones where that is faster.

    The fastest option of it; a table without that kind has its fastest of all.
    """
    for kind in dict.fromkeys(o.kind for os in options for o in os):
        for kinds in ({kind}, {kind, "data_parallel"}):
            chosen = []
            for os in options:
                among = [i for i, o in enumerate(os) if o.kind in kinds] or range(len(os))
                chosen.append(min(among, key=lambda i: os[i].total_time))
            yield tuple(chosen)


def _least(options: Sequence[Sequence[Option]], what: Literal["most_bytes", "total_bytes"]) -> Chosen:
    return tuple(min(range(len(os)), key=lambda i: getattr(os[i], what)) for os in options)
