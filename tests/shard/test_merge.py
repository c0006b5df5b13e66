"""Metrics over ranks: the value of all rows in one process, the same bits on every rank, bytes that arrive as sent."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec import metrics
from funcrec.core.errors import DataError
from funcrec.metrics import Metric
from funcrec.shard.merge import gather, merge_states
from tests.metrics.drawn import METRICS, Rows, make_rows, take

MANY_CLASSES = {
    "multiclass_auc": lambda: metrics.multiclass_auc(classes=2, thresholds=11, undefined="nan"),
    "recall_at_k": lambda: metrics.recall_at_k(k=1),
}
DECAYED = {"decayed_auc": lambda: metrics.decayed_auc(thresholds=11, decay_step=2, undefined="nan")}


def make(name: str) -> Metric:
    return METRICS[name][0]() if name in METRICS else {**MANY_CLASSES, **DECAYED}[name]()


def update(name: str, metric: Metric, state, r: Rows):
    if name in MANY_CLASSES:
        labels = torch.stack([1 - r.labels, r.labels], 1) if name == "recall_at_k" else r.labels
        return metric.update(state, torch.stack([1 - r.predictions, r.predictions], 1), labels)
    weights = r.weights if name in METRICS and METRICS[name][1] else None
    return metric.update(state, r.predictions, r.labels, weights, r.groups)


def parts(r: Rows, cuts: list[int]) -> list[Rows]:
    edges = [0, *cuts, len(r.labels)]
    return [take(r, slice(a, b)) for a, b in pairwise(edges)]


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14, equal_nan=True)


def all_metrics(rank, world, group, r, cuts, batch):
    values = {}
    mine = parts(r, cuts)[rank]
    for name in (*METRICS, *MANY_CLASSES):
        metric = make(name)
        state = metric.init()
        for start in range(0, len(mine.labels), batch):
            state = update(name, metric, state, take(mine, slice(start, start + batch)))
        values[name] = metric.compute(merge_states(metric, state, group))
    return values


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 7), st.data())
def test_values_are_those_of_all_rows(ranks, world, seed, n, batch, data):
    """However the rows fall to the ranks, none at all included."""
    r = make_rows(seed, n)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), min_size=world - 1, max_size=world - 1)))
    found = ranks.run(world, all_metrics, r, cuts, batch)
    for name in (*METRICS, *MANY_CLASSES):
        metric = make(name)
        same(found[0][name], metric.compute(update(name, metric, metric.init(), r)))
        for values in found[1:]:
            torch.testing.assert_close(values[name], found[0][name], rtol=0, atol=0, equal_nan=True)


def decayed(rank, world, group, batches):
    metric = make("decayed_auc")
    state = metric.init()
    for r in batches:
        state = update("decayed_auc", metric, state, parts(r, [len(r.labels) // 3])[rank])
    return metric.compute(merge_states(metric, state, group))


def test_windows_of_equal_updates_merge(ranks):
    batches = [make_rows(s, 20) for s in range(5)]
    metric = make("decayed_auc")
    state = metric.init()
    for r in batches:
        state = update("decayed_auc", metric, state, r)
    for value in ranks.run(2, decayed, batches):
        same(value, metric.compute(state))


def unmergeable(rank, world, group):
    metric, r = metrics.auc(), make_rows(0, 4)
    state = metric.update(metric.init(), r.predictions, r.labels, r.weights if rank else None)
    with pytest.raises(DataError, match="columns of an update"):
        merge_states(metric, state, group)


def test_states_that_do_not_merge_are_refused_on_every_rank(ranks):
    ranks.run(2, unmergeable)


DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float64, torch.float16, torch.bfloat16]
SHAPES = st.sampled_from([(), (0,), (3,), (2, 0), (5, 3)])


@st.composite
def tensors(draw):
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(SHAPES)
    x = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    return (x > 0) if dtype == torch.bool else x.to(dtype)


VALUES = st.recursive(
    tensors() | st.integers() | st.text(max_size=3),
    lambda v: st.dictionaries(st.text(max_size=2), v, max_size=3) | st.lists(v, max_size=3).map(tuple),
    max_leaves=6,
)


def gathered(rank, world, group, values):
    return gather(values[rank], group)


def alike(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            alike(a[key], b[key])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            alike(x, y)
    else:
        assert a == b


@given(st.integers(1, 3), st.data())
def test_values_of_any_structure_arrive_as_they_were(ranks, world, data):
    values = data.draw(st.lists(VALUES, min_size=world, max_size=world))
    for result in ranks.run(world, gathered, values):
        alike(tuple(result), tuple(values))
