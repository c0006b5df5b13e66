"""A plan made better, one table at a time, then a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from funcrec.shard.costs import TIMES
from funcrec.shard.options import Option
from funcrec.shard.packing import Packing, Places, Ranks, pack_best
from funcrec.shard.topology import Topology

Chosen = tuple[int, ...]
_POWERS = (4, 16)
_REPACKED = 30_000  # tables packed while all are packed anew
_TRIES = 10_000  # for each of them: options put on ranks to see what they would do
_REARRANGED, _A_TABLE = 20_000, 150  # the same, of a few tables together; at most so many times the tables' square
_TOGETHER = 6  # most tables rearranged together


class Found(NamedTuple):
    """Of each table, which option was chosen; and where all of them lie."""

    chosen: Chosen
    packing: Packing


def improve(found: Found, options: Sequence[Sequence[Option]], topology: Topology, capacity: float) -> Found:
    """Give one table after another a better option, as long as that helps.

    What helps is a smaller norm of the ranks' times: the maximum alone says nothing while several ranks are the
    busiest, so the powers grow to it. First all is packed anew for each change, which full memory needs;
    then one table is taken off the ranks and put back in the best way, the others as they are. The last power is
    infinite, from the shortest step so far, which does not get longer. Tries are counted, not timed: equal inputs give
    equal plans on any machine.
    """
    steps = [found, _repack(found, options, topology, capacity, _POWERS[0])]
    for power in _POWERS:
        steps.append(_descend(steps[-1], options, topology, capacity, power))
    return _descend(min(steps, key=lambda f: f.packing.step), options, topology, capacity, np.inf)


def _repack(
    found: Found, options: Sequence[Sequence[Option]], topology: Topology, capacity: float, power: float
) -> Found:
    """Another option for one table and all packed anew, until a round changes nothing or the tries are used up."""
    tries, worth = _REPACKED // len(options), _worth(found.packing.load, power)
    moved = True
    while moved:
        moved = False
        for i in sorted(range(len(options)), key=lambda i: -options[i][found.chosen[i]].most_time):
            for other in range(len(options[i])):
                if other == found.chosen[i]:
                    continue
                if (tries := tries - 1) < 0:
                    return found
                chosen = (*found.chosen[:i], other, *found.chosen[i + 1 :])
                packed = pack_best([o[c] for o, c in zip(options, chosen, strict=True)], topology, capacity)
                if isinstance(packed, Packing) and (now := _worth(packed.load, power)) < worth * (1 - 1e-9):
                    found, worth, moved = Found(chosen, packed), now, True
    return found


def _descend(
    found: Found, options: Sequence[Sequence[Option]], topology: Topology, capacity: float, power: float
) -> Found:
    """Table by table, those of the longest shards first, until a round changes nothing or the tries are used up."""
    ranks, tries = Ranks(topology, capacity), _TRIES
    chosen, places = list(found.chosen), list(found.packing.places)
    for i, place in enumerate(places):
        ranks.put(options[i][chosen[i]], place)
    moved = True
    while moved:
        moved = False
        for i in sorted(range(len(chosen)), key=lambda i: -options[i][chosen[i]].most_time):
            if (tries := tries - len(options[i])) < 0:
                break
            old, worth = (chosen[i], places[i]), _worth(ranks.load, power) * (1 - 1e-9)
            ranks.put(options[i][old[0]], old[1], -1)
            new = _put_best(ranks, options[i], power, old, worth) or old
            moved |= new != old
            chosen[i], places[i] = new
        moved &= tries >= 0
    return _exactly(chosen, places, options, topology, capacity)


def _exactly(
    chosen: Sequence[int],
    places: Sequence[Places],
    options: Sequence[Sequence[Option]],
    topology: Topology,
    capacity: float,
) -> Found:
    """Without what taking off and putting back has rounded."""
    ranks = Ranks(topology, capacity)
    for i, place in enumerate(places):
        ranks.put(options[i][chosen[i]], place)
    return Found(tuple(chosen), Packing(tuple(places), ranks.load))


def rearrange(found: Found, options: Sequence[Sequence[Option]], topology: Topology, capacity: float) -> Found:
    """A few tables taken off together and put back one after another, where that is better: what no move of one alone
    does while the others are in its place (Shaw 1998, "large neighbourhood search"; drawn, always alike)."""
    ranks, draw = Ranks(topology, capacity), np.random.default_rng(0)
    tries = min(_REARRANGED, _A_TABLE * len(options) ** 2)
    chosen, places = list(found.chosen), list(found.packing.places)
    for i, place in enumerate(places):
        ranks.put(options[i][chosen[i]], place)
    worth = (_worth(ranks.load, np.inf), _worth(ranks.load, _POWERS[-1]))
    while tries > 0 and len(chosen) > 1:
        some = draw.permutation(len(chosen))[: draw.integers(2, _TOGETHER + 1)].tolist()
        for i in some:
            ranks.put(options[i][chosen[i]], places[i], -1)
        power = (*_POWERS, np.inf)[draw.integers(3)]
        new = {i: way for i in some if (way := _put_best(ranks, options[i], power)) is not None}
        tries -= sum(len(options[i]) for i in some)
        now = (_worth(ranks.load, np.inf), _worth(ranks.load, _POWERS[-1]))
        if len(new) == len(some) and now < worth:
            worth = now
            for i, way in new.items():
                chosen[i], places[i] = way
            continue
        for i, (c, place) in new.items():
            ranks.put(options[i][c], place, -1)
        for i in some:
            ranks.put(options[i][chosen[i]], places[i])
    made = _exactly(chosen, places, options, topology, capacity)
    return made if made.packing.step <= found.packing.step else found


def _put_best(
    ranks: Ranks,
    options: Sequence[Option],
    power: float,
    best: tuple[int, Places] | None = None,
    worth: float = np.inf,
) -> tuple[int, Places] | None:
    """The best option and places of a table that lies nowhere, put there; None where no option finds room.

    ``best``: a way known before, and what it is worth.
    """
    for c, option in enumerate(options):
        found = ranks.find(option)
        if isinstance(found, float):
            continue
        ranks.put(option, found)
        if (now := _worth(ranks.load, power)) < worth:
            best, worth = (c, found), now
        ranks.put(option, found, -1)
    if best is not None:
        ranks.put(options[best[0]], best[1])
    return best


def _worth(load: np.ndarray, power: float) -> float:
    """Sum over lookup, exchange and update of the norms over ranks; the step where the power is infinite."""
    times = np.maximum(load[:, TIMES], 0)  # a difference of equals may round below zero
    most = times.max(0)
    if np.isinf(power):
        return float(most.sum())
    scaled = times / np.where(most > 0, most, 1)
    return float((most * (scaled**power).sum(0) ** (1 / power)).sum())
