"""A managed store is the store below it on the slots of a slow model's map, with fresh rows written by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import CheckpointError, ConfigError, DataError, ShapeError
from funcrec.core.ragged import concat_ids
from funcrec.core.random import key
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, ZchConfig, managed
from funcrec.embedding.rows import add, scale, squared_norm
from tests.embedding.managed import (
    CONFIGS,
    HUGE,
    READS,
    ROWS,
    SPEC,
    STORES,
    by_hand,
    copied,
    full,
    gradient_of,
    make_spec,
    mapped,
    raw_ids,
    same,
)


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=8)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_steps_are_those_of_the_inner_store_on_the_slots_of_a_slow_model(kind, seed, steps):
    batches = [raw_ids(100 * seed + i, 1 + i % 3) for i in range(steps)]
    expected, embs = by_hand(kind, batches, seed)
    store = managed(STORES[kind](SPEC), CONFIGS)
    tables = store.init(key(seed))
    for step, ids in enumerate(batches, 1):
        emb, touched = store.lookup(tables, ids)
        assert same(dict(emb.items()), dict(embs[step - 1].items()))
        tables = store.update(tables, touched, gradient_of(emb, step))
    maps = tables.pop("zch")
    assert same(tables, expected)
    assert {n: int(m["step"]) for n, m in maps.items()} == dict.fromkeys(CONFIGS, steps)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", STORES)
def test_a_gpu_takes_the_same_steps(kind):
    found = []
    for device in ("cpu", "cuda"):
        store = managed(STORES[kind](SPEC), CONFIGS)
        tables = store.init(key(1, device))
        for step in range(12):
            ids = {f: x.to(device) for f, x in raw_ids(step, 3).items()}
            emb, touched = store.lookup(tables, ids)
            tables = store.update(tables, touched, gradient_of(emb, step))
        found.append(tables)
    for name, held in found[0]["zch"].items():
        assert all(torch.equal(x, found[1]["zch"][name][n].cpu()) for n, x in held.items())
    for name, x in found[0]["weights"].items():
        torch.testing.assert_close(x, found[1]["weights"][name].cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=8)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_micro_batches_are_one_batch_and_scales_leave_ids_alone(kind, seed, sizes):
    store = managed(STORES[kind](SPEC), CONFIGS)
    whole, parted = store.init(key(0)), store.init(key(0))
    for step in range(6):
        parts = [raw_ids(seed + 10 * step + i, n) for i, n in enumerate(sizes)]
        emb, touched = store.lookup(whole, {f: concat_ids([p[f] for p in parts]) for f in READS})
        whole = store.update(whole, touched, full(emb, 1.0))
        gradients = []
        for ids in parts:
            emb, touched = store.lookup(parted, ids)
            gradients.append(store.gradient(parted, touched, full(emb, 2.0)))
        parted = store.apply(parted, store.regularize(parted, scale(add(gradients), 0.5)))
    assert same(whole["zch"], parted["zch"])
    for name, x in whole["weights"].items():
        torch.testing.assert_close(parted["weights"][name], x)


def test_what_begins_before_its_turn_does_not_look_at_the_map():
    """Ids that set out before an eviction, say, would arrive at rows of other ids."""
    inner = STORES["rowwise"](SPEC)._replace(begin=lambda tables, ids: pytest.fail("raw ids on their way"))
    ids = raw_ids(0, 3)
    assert managed(inner, CONFIGS).begin({}, ids) is ids


def test_looking_up_changes_nothing_and_ids_have_no_norm():
    inner = STORES["rowwise"](SPEC)
    store = managed(inner, CONFIGS)
    tables = store.init(key(3))
    assert same({n: x for n, x in tables.items() if n != "zch"}, inner.init(key(3)))
    before = copied(tables)
    for i in range(6):
        emb, touched = store.lookup(tables, raw_ids(i, 4))
    assert same(before, tables)
    rows = {f: mapped(x, {}, ROWS[READS[f]] - 1) if READS[f] in CONFIGS else x for f, x in raw_ids(5, 4).items()}
    plain = inner.gradient(tables, inner.lookup(tables, rows)[1], gradient_of(emb, 0))
    assert float(squared_norm(store.gradient(tables, touched, gradient_of(emb, 0)))) == float(squared_norm(plain)) > 0


def test_what_would_be_silently_wrong_is_refused():
    spec, cases = SPEC, {"item": ZchConfig()}
    store = STORES["rowwise"](spec)
    with pytest.raises(ConfigError, match=r"managed: tables: got \['itm'\], expected names among"):
        managed(store, {"itm": ZchConfig()})
    both = EmbeddingGroup(name="both", lookups=(Lookup(feature="p", table="user"),))
    mixed = EmbeddingSpec(tables=spec.tables, groups=(*spec.groups, both), sequences=spec.sequences)
    for names in (["user"], ["plain", "user"], ["plain"]):
        with pytest.raises(ConfigError, match=r"feature 'p': .*got \['plain', 'user'\], expected one"):
            managed(STORES["rowwise"](mixed), {n: ZchConfig() for n in names})
    managed(STORES["rowwise"](mixed), cases)  # those of no managed table are no business of ours
    with pytest.raises(ConfigError, match="gather: got None for 2 processes"):
        managed(store._replace(processes=2), cases)
    with pytest.raises(ConfigError, match="managed already"):
        managed(managed(store, cases), {"user": ZchConfig()}).init(key(0))
    with pytest.raises(ConfigError, match="rows: got 1, expected at least 2"):
        managed(STORES["rowwise"](make_spec(item=1)), cases).init(key(0))
    with pytest.raises(ConfigError, match="reset: table 'item': got a store that cannot"):
        type(store)(*store[:6]).reset({}, "item", torch.zeros(0), torch.zeros(0))


def test_tables_of_another_store_and_ids_of_another_kind_are_refused():
    store = managed(STORES["rowwise"](SPEC), CONFIGS)
    ids = raw_ids(0, 3)
    with pytest.raises(CheckpointError, match="table 'item': got tables without a map"):
        store.lookup(STORES["rowwise"](SPEC).init(key(0)), ids)
    tables = store.init(key(0))
    fewer = managed(STORES["rowwise"](SPEC), CONFIGS | {"user": ZchConfig(candidates=4)})
    with pytest.raises(CheckpointError, match="table 'user': candidates of its map: got 5, expected 4"):
        fewer.lookup(tables, ids)
    with pytest.raises(CheckpointError, match="table 'item': rows of its map: got 7, expected 9"):
        managed(STORES["rowwise"](make_spec(item=9)), CONFIGS).lookup(tables, ids)
    with pytest.raises(DataError, match="ids of feature 'a'"):
        store.lookup(tables, {f: x for f, x in ids.items() if f != "a"})
    with pytest.raises(ShapeError, match=r"ids of feature 'a'.*float32"):
        store.lookup(tables, {**ids, "a": torch.zeros(3)})
    with pytest.raises(DataError, match="feature 'p': id out of range"):
        store.lookup(tables, {**ids, "p": torch.full((3,), HUGE)})
