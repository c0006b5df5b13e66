"""Laws of the state: it is a value, it merges, and it does not matter how the rows arrived."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec import metrics
from funcrec.core.errors import ConfigError, DataError
from funcrec.metrics.metric import add_states
from funcrec.metrics.rows import append, concatenate, length
from tests.metrics.drawn import METRICS, Rows, evaluate, make_rows, rows, take

quick = settings(max_examples=20, deadline=None)
every_metric = pytest.mark.parametrize("name", METRICS)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14, equal_nan=True)


@every_metric
@quick
@given(r=rows, cut=st.integers(0, 30), batch=st.integers(1, 7), seed=st.integers(0, 99))
def test_any_split_in_any_order_is_the_whole(name: str, r: Rows, cut: int, batch: int, seed: int) -> None:
    make, weighted = METRICS[name]
    metric = make()
    whole = evaluate(metric, r, weighted)
    order = torch.randperm(len(r.labels), generator=torch.Generator().manual_seed(seed))
    same(evaluate(metric, take(r, order), weighted, batch), whole)

    states = []
    for part in (take(r, order[:cut]), take(r, order[cut:])):
        w = part.weights if weighted else None
        states.append(metric.update(metric.init(), part.predictions, part.labels, w, part.groups))
    same(metric.compute(metric.merge(*states)), whole)
    same(metric.compute(metric.merge(*reversed(states))), whole)
    same(metric.compute(metric.merge(metric.merge(metric.init(), states[0]), states[1])), whole)
    same(metric.compute(metric.merge(states[0], metric.merge(states[1], metric.init()))), whole)


@every_metric
def test_a_state_is_a_value(name: str) -> None:
    make, weighted = METRICS[name]
    metric, r = make(), make_rows(1, 12)
    w = r.weights if weighted else None
    state = metric.update(metric.init(), r.predictions, r.labels, w, r.groups)
    before, value = copy.deepcopy(state), metric.compute(state)
    metric.update(state, r.predictions, r.labels, w, r.groups)
    metric.merge(state, state)
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    for x in r:  # a loader that reuses its memory
        x.zero_()
    same(metric.compute(state), value)


@every_metric
def test_values_are_float64_scalars_without_a_graph(name: str) -> None:
    make, weighted = METRICS[name]
    r = make_rows(2, 20)
    value = evaluate(make(), r._replace(predictions=r.predictions.float().requires_grad_()), weighted)
    assert value.dtype == torch.float64
    assert value.shape == ()
    assert not value.requires_grad


@every_metric
@quick
@given(r=rows, scale=st.sampled_from([0.25, 8.0]))
def test_weights(name: str, r: Rows, scale: float) -> None:
    make, weighted = METRICS[name]
    if not weighted:
        with pytest.raises(DataError, match="weights"):
            evaluate(make(), r, weighted=True)
        return
    value = evaluate(make(), r, weighted=True)
    same(evaluate(make(), r._replace(weights=r.weights * scale), weighted=True), value)
    same(evaluate(make(), r._replace(weights=torch.full_like(r.weights, scale)), weighted=True), evaluate(make(), r))
    times = (r.weights * 2).long()
    repeated = Rows(*(x.repeat_interleave(times) for x in r))
    same(evaluate(make(), repeated), value)


def test_sums_do_not_stall_as_float32_would() -> None:
    metric = metrics.mean_absolute_error()
    state = metric.update(metric.init(), torch.zeros(1), torch.ones(1), torch.tensor([2.0**26]))
    for _ in range(64):
        state = metric.update(state, torch.zeros(1), torch.zeros(1))
    assert float(state["weight"]) == 2.0**26 + 64


@quick
@given(st.lists(st.integers(0, 5), max_size=60))
def test_rows_stay_in_order_in_few_chunks(sizes: list[int]) -> None:
    chunks: tuple[dict[str, Tensor], ...] = ()
    for k, size in enumerate(sizes):
        chunks = append("m", chunks, {"x": torch.full((size,), k)})
        assert len(chunks) <= max(1, sum(sizes)).bit_length()
    kept = concatenate(chunks)["x"] if chunks else torch.zeros(0, dtype=torch.int64)
    assert kept.tolist() == [k for k, size in enumerate(sizes) for _ in range(size)]
    assert all(length(a) > length(b) for a, b in pairwise(chunks))


def test_an_update_keeps_the_memory_of_earlier_rows() -> None:
    big, small = make_rows(0, 100), make_rows(1, 3)
    metric = metrics.auc()
    state = metric.update(metric.init(), big.predictions, big.labels)
    later = metric.update(state, small.predictions, small.labels)
    assert later["chunks"][0]["scores"].data_ptr() == state["chunks"][0]["scores"].data_ptr()


def test_columns_must_stay_the_same() -> None:
    metric, r = metrics.auc(), make_rows(0, 4)
    state = metric.update(metric.init(), r.predictions, r.labels)
    with pytest.raises(DataError, match="weights always or never"):
        metric.update(state, r.predictions, r.labels, r.weights)


@quick
@given(rows, st.integers(1, 3))
def test_decayed_merges_like_its_sums(r: Rows, step: int) -> None:
    """Two ranks of half the rows each, or one of all of them."""
    metric = metrics.decayed(metrics.mean_squared_error(undefined="nan"), decay_rate=0.7, decay_step=step)
    half = len(r.labels) // 2
    ranks = [metric.init(), metric.init()]
    single = metric.init()
    for k in range(4):
        shifted = r.predictions + k
        single = metric.update(single, shifted, r.labels, r.weights)
        for i, part in enumerate([slice(None, half), slice(half, None)]):
            ranks[i] = metric.update(ranks[i], shifted[part], r.labels[part], r.weights[part])
    same(metric.compute(metric.merge(*ranks)), metric.compute(single))
    assert metric.merge(metric.init(), single) is single
    assert metric.merge(single, metric.init()) is single
    with pytest.raises(DataError, match="updates"):
        metric.merge(single, metric.update(single, r.predictions, r.labels))


def test_decayed_repeats_its_value_between_windows() -> None:
    metric = metrics.decayed(metrics.mean_absolute_error(undefined="nan"), decay_rate=0.5, decay_step=2)
    state, values = metric.init(), []
    for error in [1.0, 3.0, 5.0, 7.0, 100.0]:
        state = metric.update(state, torch.tensor([error]), torch.zeros(1))
        values.append(float(metric.compute(state)))
    assert values[0] != values[0]
    assert values[1:] == [2.0, 2.0, 4.0, 4.0]


def test_decayed_takes_sums_only() -> None:
    with pytest.raises(ConfigError, match="keeps rows"):
        metrics.decayed(metrics.auc())
    metrics.decayed(metrics.xauc(in_batch=True))


def test_states_add_leaf_by_leaf() -> None:
    a, b = {"x": torch.ones(2)}, {"x": torch.arange(2.0)}
    assert add_states(a, b)["x"].tolist() == [1.0, 2.0]
