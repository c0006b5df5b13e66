"""Which slot of a table an id has, for ids that are arbitrary numbers: zero-collision hashing as pure functions.

    held = init_map(config, rows=1_000_000)
    slots = remap(held, ids)                          # unknown ids share the last row
    held = observe(config, held, ids, step)           # after each training step
    held, fresh = evict(config, held, step)           # every config.interval steps: these slots have another id now

A map is a dict of tensors of fixed shapes: ``rows - 1`` slots with ids, and candidates for them, the ids without a slot
that were seen since the last eviction. Everything is a function of *which* ids were seen how often at which step, never
of their order, so processes that see the same ids hold the same map.

Reference: torchrec ``MCHManagedCollisionModule`` and its eviction policies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail

Policy = Literal["lfu", "lru", "distance_lfu"]
Map = dict[str, Tensor]
EMPTY = torch.iinfo(torch.int64).max  # where no id is; also a valid id, so only the counts of entries tell them apart


@dataclass(frozen=True, kw_only=True)
class ZchConfig:
    """Which ids keep their slots: those of the highest score, where Δ = 1 + steps since the id was last seen.

    ============ ============================
    policy       score
    ============ ============================
    lfu          ``count``
    lru          ``1 / Δ^decay_exponent``
    distance_lfu ``count / Δ^decay_exponent``
    ============ ============================

    Of equal scores an id that has a slot goes before one that has none, then the smaller id before the larger.

    Attributes:
        interval: steps from one eviction to the next.
        admit: how often an id must be seen within an interval to become eligible for a slot.
        candidates: most ids without a slot that are remembered within an interval; None: as many as there are slots.
            When a step leaves more, those of the lowest score (of equal ones, the larger id) are forgotten: seen again,
            they count from 1.
    """

    policy: Policy = "lfu"
    decay_exponent: float = 1.0
    interval: int = 5
    admit: int = 1
    candidates: int | None = None

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            fail(ConfigError, "zch: policy", got=repr(self.policy), expected=f"one of {get_args(Policy)}")
        if not 0.0 < self.decay_exponent < math.inf:
            fail(ConfigError, "zch: decay_exponent", got=self.decay_exponent, expected="a positive number")
        if self.policy == "lfu" and self.decay_exponent != 1.0:
            fix = "take distance_lfu, or leave the exponent out"
            fail(ConfigError, "zch: decay_exponent of lfu, which has none", got=self.decay_exponent, fix=fix)
        for name in ("interval", "admit", "candidates"):
            number = getattr(self, name)
            if number is not None and number < 1:
                fail(ConfigError, f"zch: {name}", got=number, expected="at least 1")

    def room(self, rows: int) -> int:
        """How many candidates a map of so many rows remembers."""
        return rows - 1 if self.candidates is None else self.candidates


def init_map(config: ZchConfig, rows: int, device: torch.device | str | None = None) -> Map:
    """A map of a table of ``rows`` rows in which no id has a slot.

    ``ids``, ``slots``, ``counts``, ``last`` ``[rows - 1]``, by ascending id, of which the first ``used`` have one;
    ``new_*`` ``[candidates]``, a log whose first ``filled`` entries count: int64, 32 bytes a slot and 24 a candidate.

    Raises:
        ConfigError: fewer than two rows: the last one is that of unknown ids.
    """
    if rows < 2:
        fail(ConfigError, "zch: rows", got=rows, expected="at least 2: a slot, and the row of ids without one")
    n, room = rows - 1, config.room(rows)
    zeros = lambda size: torch.zeros(size, dtype=torch.int64, device=device)  # noqa: E731
    number = lambda: torch.zeros((), dtype=torch.int64, device="cpu")  # noqa: E731  # read without waiting
    empty = lambda size: torch.full((size,), EMPTY, dtype=torch.int64, device=device)  # noqa: E731
    slots = torch.arange(n, device=device)
    held = {"ids": empty(n), "slots": slots, "counts": zeros(n), "last": zeros(n), "used": number()}
    return held | {"new_ids": empty(room), "new_counts": zeros(room), "new_last": zeros(room), "filled": number()}


def _find(held: Map, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The place of each id among those with a slot, and whether it is there."""
    at = torch.searchsorted(held["ids"], ids)
    known = at < held["used"]  # a real id EMPTY comes before the empty entries
    at = at.clamp_(max=held["ids"].shape[0] - 1)
    return at, known & (held["ids"][at] == ids)


def remap(held: Map, ids: Tensor) -> Tensor:
    """The row of each id, int64 of the shape of ``ids``: its slot, or the last row. The host waits for nothing."""
    at, known = _find(held, ids.long().contiguous())
    return torch.where(known, held["slots"][at], held["slots"].shape[0])


def scores(config: ZchConfig, counts: Tensor, last: Tensor, step: int) -> Tensor:
    """What orders ids as the scores of the config do: the highest stay. Whole numbers but for ``distance_lfu``."""
    if config.policy == "lfu":
        return counts
    if config.policy == "lru":
        return last
    return counts.double() / (step + 1 - last).double() ** config.decay_exponent


def best(score: Tensor, k: int) -> Tensor:
    """Whether each is among the k highest; of equal ones the first are. By selection: no sort of a whole table."""
    others = score.shape[0] - k
    if others <= 0:
        return torch.ones_like(score, dtype=torch.bool)
    bound = score.kthvalue(others).values
    above, equal = score > bound, score == bound
    return above | (equal & (equal.cumsum(0) <= k - above.sum()))


def observe(config: ZchConfig, held: Map, ids: Tensor, step: int, *, donate: bool = False) -> Map:
    """The map after ``ids`` (any shape, each occurrence counts) were seen at ``step``, a number that never falls.

    On a GPU the host waits: how many ids are new decides on shapes. With ``donate`` the map given is written.
    """
    ids, counts = torch.unique(ids.reshape(-1).long(), return_counts=True)
    held = held if donate else {name: x.clone() for name, x in held.items()}
    at, known = _find(held, ids)
    seen = at[known]
    held["counts"].index_add_(0, seen, counts[known])
    held["last"].index_fill_(0, seen, step)
    ids, counts = ids[~known], counts[~known]
    last = torch.full_like(ids, step)
    filled, room = int(held["filled"]), held["new_ids"].shape[0]
    start = filled
    if filled + ids.shape[0] > room:
        log = _candidates(held)
        ids, counts, last = _each_once(*(torch.cat(x) for x in zip(log, (ids, counts, last), strict=True)))
        kept = best(scores(config, counts, last, step), room)
        ids, counts, last, start = ids[kept], counts[kept], last[kept], 0
    stop = start + ids.shape[0]
    for name, x in (("new_ids", ids), ("new_counts", counts), ("new_last", last)):
        held[name][start:stop] = x
    held["filled"].fill_(stop)
    return held


def _candidates(held: Map) -> tuple[Tensor, Tensor, Tensor]:
    """The log of candidates: id, count, last step; an id stands there once for each step that saw it."""
    n = int(held["filled"])
    return held["new_ids"][:n], held["new_counts"][:n], held["new_last"][:n]


def _each_once(ids: Tensor, counts: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By ascending id, with the sum of its counts and the latest of its steps."""
    distinct, at = torch.unique(ids, return_inverse=True)
    total = torch.zeros_like(distinct).index_add_(0, at, counts)
    return distinct, total, torch.zeros_like(distinct).scatter_reduce_(0, at, last, "amax", include_self=False)


def _merging_order(a: Tensor, b: Tensor) -> Tensor:
    """``argsort(cat([a, b]))`` of two ascending lists without a number in common: a sort would take most of evict."""
    order = torch.empty(a.shape[0] + b.shape[0], dtype=torch.int64, device=a.device)
    places = torch.searchsorted(a, b) + torch.arange(b.shape[0], device=b.device)
    of_a = torch.ones_like(order, dtype=torch.bool).index_fill_(0, places, False)
    order[of_a] = torch.arange(a.shape[0], device=a.device)
    order[places] = torch.arange(a.shape[0], order.shape[0], device=a.device)
    return order


def evict(config: ZchConfig, held: Map, step: int) -> tuple[Map, Tensor]:
    """Give the slots to the ids of the highest scores at ``step``, and forget all other candidates.

    Returns:
        the map, and the slots whose id is another than before: what their rows hold belongs to nobody. An id that stays
        keeps its slot; new ids, ascending, get the slots of those that leave, ascending by id, then slots without one.
    """
    used, n = int(held["used"]), held["ids"].shape[0]
    old = [held[name][:used] for name in ("ids", "counts", "last", "slots")]
    new = _each_once(*_candidates(held))
    eligible = new[1] >= config.admit
    new = new[0][eligible], new[1][eligible], new[2][eligible]
    kept = best(scores(config, torch.cat([old[1], new[1]]), torch.cat([old[2], new[2]]), step), n)
    stay, enter = kept[:used], kept[used:]
    vacant = torch.cat([old[3][~stay], held["slots"][used:]])
    stayed, entered = [x[stay] for x in old], [x[enter] for x in new]
    fresh, spare = vacant.tensor_split([entered[0].shape[0]])
    order = _merging_order(stayed[0], entered[0])
    ids, counts, last, slots = (torch.cat(x)[order] for x in zip(stayed, (*entered, fresh), strict=True))
    zeros = torch.zeros_like(spare)
    out = {
        "ids": torch.cat([ids, torch.full_like(spare, EMPTY)]),
        "slots": torch.cat([slots, spare]),
        "counts": torch.cat([counts, zeros]),
        "last": torch.cat([last, zeros]),
        "used": torch.full_like(held["used"], ids.shape[0]),
        "filled": torch.zeros_like(held["filled"]),
    }
    return {**held, **out}, fresh
