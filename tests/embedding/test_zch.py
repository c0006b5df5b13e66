"""The map from ids to slots is that of a slow model made of dicts, whatever the order of the ids in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError
from funcrec.embedding.resize import resized
from funcrec.embedding.zch import ZchConfig, evict, init_map, observe, remap

LARGEST = 2**63 - 1
UNIVERSE = [0, 1, 2, 3, 5, 8, 13, 21, 34, -1, -(2**63), 2**62 + 1, LARGEST - 1, LARGEST]


class Slow:
    """The same rules, id by id."""

    def __init__(self, config: ZchConfig, rows: int) -> None:
        self.config, self.n = config, rows - 1
        self.slot: dict[int, int] = {}
        self.seen: dict[int, tuple[int, int]] = {}  # count and last step
        self.new: dict[int, tuple[int, int]] = {}
        self.free = list(range(self.n))

    def score(self, count: int, last: int, step: int) -> float:
        age = (1 + step - last) ** self.config.decay_exponent
        return {"lfu": float(count), "lru": 1 / age, "distance_lfu": count / age}[self.config.policy]

    def observe(self, ids: list[int], step: int) -> None:
        for i in ids:
            held = self.seen if i in self.slot else self.new
            held[i] = (held.get(i, (0, 0))[0] + 1, step)
        order = sorted(self.new, key=lambda i: (-self.score(*self.new[i], step), i))
        self.new = {i: self.new[i] for i in order[: self.config.room(self.n + 1)]}

    def evict(self, step: int) -> list[int]:
        """The slots whose id changed."""
        eligible = {i: x for i, x in self.new.items() if x[0] >= self.config.admit}
        both = self.seen | eligible
        kept = sorted(both, key=lambda i: (-self.score(*both[i], step), i in eligible, i))[: self.n]
        free = [self.slot.pop(i) for i in sorted(self.slot) if i not in kept] + self.free
        entering = sorted(set(kept) & set(eligible))
        self.seen = {i: both[i] for i in kept}
        self.slot |= dict(zip(entering, free, strict=False))
        self.new, self.free = {}, free[len(entering) :]
        return free[: len(entering)]


configs = st.builds(
    lambda policy, e, **rest: ZchConfig(policy=policy, decay_exponent=1.0 if policy == "lfu" else e, **rest),
    policy=st.sampled_from(["lfu", "lru", "distance_lfu"]),
    e=st.sampled_from([0.5, 1.0, 2.0]),
    interval=st.integers(1, 4),
    admit=st.integers(1, 3),
    candidates=st.none() | st.integers(1, 6),
)
batches = st.lists(st.lists(st.sampled_from(UNIVERSE), max_size=12), min_size=1, max_size=14)


def after(config: ZchConfig, rows: int, trace: list[torch.Tensor], donate: bool = False) -> tuple[Any, list[Any]]:
    """The map after steps on these ids, and what each eviction changed."""
    held, changed = init_map(config, rows), []
    for step, ids in enumerate(trace, 1):
        held = observe(config, held, ids, step, donate=donate)
        if step % config.interval == 0:
            held, slots = evict(config, held, step)
            changed.append(slots)
    return held, changed


@settings(max_examples=150)
@given(configs, st.integers(2, 8), batches)
def test_the_map_is_that_of_a_slow_model(config, rows, trace):
    slow, held, every = Slow(config, rows), init_map(config, rows), torch.tensor(UNIVERSE)
    for step, ids in enumerate(trace, 1):
        slow.observe(ids, step)
        held = observe(config, held, torch.tensor(ids, dtype=torch.int64), step)
        if step % config.interval == 0:
            held, slots = evict(config, held, step)
            assert slots.tolist() == slow.evict(step)
        assert remap(held, every).tolist() == [slow.slot.get(i, rows - 1) for i in UNIVERSE]
        used = int(held["used"])
        assert dict(zip(held["ids"][:used].tolist(), held["counts"][:used].tolist(), strict=True)) == {
            i: count for i, (count, _) in slow.seen.items()
        }


@given(configs, st.integers(2, 8), batches, st.randoms(use_true_random=False))
def test_neither_the_order_of_ids_nor_donation_changes_a_bit(config, rows, trace, random):
    ids = [torch.tensor(x, dtype=torch.int64) for x in trace]
    held, changed = after(config, rows, ids)
    shuffled = [x[torch.tensor(random.sample(range(len(x)), len(x)), dtype=torch.int64)] for x in ids]
    others, other_changes = after(config, rows, shuffled, donate=True)
    assert held.keys() == others.keys()
    assert all(torch.equal(held[name], others[name]) for name in held)
    assert all(torch.equal(a, b) for a, b in zip(changed, other_changes, strict=True))


@given(configs, batches)
def test_without_donation_the_map_given_stays_as_it_was(config, trace):
    held, _ = after(config, 5, [torch.tensor(x, dtype=torch.int64) for x in trace])
    before = {name: x.clone() for name, x in held.items()}
    evict(config, observe(config, held, torch.tensor(UNIVERSE), 20), 20)
    assert all(torch.equal(held[name], x) for name, x in before.items())


def test_ids_keep_the_shape_and_may_be_of_any_layout():
    config = ZchConfig(interval=1)
    grid = torch.tensor([[7, 9], [LARGEST, 7]])
    held, _ = evict(config, observe(config, init_map(config, 9), grid, 1), 1)
    assert remap(held, grid.T).tolist() == [[0, 2], [1, 0]]
    assert remap(held, grid.T[1].int()).tolist() == [1, 0]
    assert remap(held, torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)


def test_with_room_for_all_each_id_has_a_slot_of_its_own():
    config, ids = ZchConfig(interval=1), torch.tensor(UNIVERSE)
    held, fresh = after(config, len(UNIVERSE) + 1, [ids, ids])
    assert remap(held, ids).sort().values.tolist() == list(range(len(UNIVERSE)))
    assert [len(x) for x in fresh] == [len(UNIVERSE), 0]


@given(configs, st.integers(2, 8), st.integers(2, 10), batches)
def test_a_resized_map_keeps_the_best_ids_and_says_where_rows_come_from(config, rows, size, trace):
    held, _ = after(config, rows, [torch.tensor(x, dtype=torch.int64) for x in trace])
    slow, step, every = Slow(config, size), len(trace), torch.tensor(UNIVERSE)
    new, source = resized(config, held, size, step)
    used = int(held["used"])
    entries = zip(*(held[name][:used].tolist() for name in ("ids", "counts", "last")), strict=True)
    seen = {i: (count, last) for i, count, last in entries}
    kept = sorted(seen, key=lambda i: (-slow.score(*seen[i], step), i))[: size - 1]
    before, now = (dict(zip(UNIVERSE, remap(h, every).tolist(), strict=True)) for h in (held, new))
    assert sorted(i for i in UNIVERSE if now[i] != size - 1) == sorted(kept)
    assert len({now[i] for i in kept}) == len(kept)
    assert all(now[i] == before[i] for i in kept if before[i] < size - 1)
    assert source.tolist() == [{now[i]: before[i] for i in kept}.get(r, -1) for r in range(size - 1)] + [rows - 1]
    assert sorted(new["slots"].tolist()) == list(range(size - 1))
    assert all(new[n].shape == x.shape for n, x in init_map(config, size).items())
    # It goes on as a map does that never was another.
    slow.slot, slow.seen = {i: now[i] for i in kept}, {i: seen[i] for i in kept}
    slow.free = new["slots"][len(kept) :].tolist()
    slow.observe(UNIVERSE * 2, step + 1)
    new, changed = evict(config, observe(config, new, torch.tensor(UNIVERSE * 2), step + 1), step + 1)
    assert changed.tolist() == slow.evict(step + 1)
    assert remap(new, every).tolist() == [slow.slot.get(i, size - 1) for i in UNIVERSE]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy": "fifo"}, "policy: got 'fifo', expected one of"),
        ({"policy": "lru", "decay_exponent": 0.0}, "decay_exponent: got 0.0"),
        ({"policy": "lru", "decay_exponent": float("nan")}, "decay_exponent: got nan"),
        ({"policy": "lfu", "decay_exponent": 2.0}, "lfu, which has none: got 2.0; take distance_lfu"),
        ({"interval": 0}, "interval: got 0"),
        ({"admit": 0}, "admit: got 0"),
        ({"candidates": 0}, "candidates: got 0"),
    ],
)
def test_settings_that_describe_nothing_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        ZchConfig(**wrong)


def test_a_table_of_one_row_has_no_slot():
    with pytest.raises(ConfigError, match="rows: got 1, expected at least 2"):
        init_map(ZchConfig(), 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@settings(max_examples=15)
@given(configs, st.integers(2, 8), batches)
def test_a_gpu_keeps_the_same_map(config, rows, trace):
    ids = [torch.tensor(x, dtype=torch.int64) for x in trace]
    held, changed = after(config, rows, ids)
    other, others = init_map(config, rows, "cuda"), []
    for step, x in enumerate(ids, 1):
        other = observe(config, other, x.cuda(), step, donate=True)
        if step % config.interval == 0:
            other, slots = evict(config, other, step)
            others.append(slots.cpu())
    assert all(torch.equal(x, other[name].cpu()) for name, x in held.items())
    assert all(torch.equal(a, b) for a, b in zip(changed, others, strict=True))
    assert torch.equal(remap(other, torch.tensor(UNIVERSE, device="cuda")).cpu(), remap(held, torch.tensor(UNIVERSE)))
