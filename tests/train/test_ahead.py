"""Batches made ready ahead are the same batches: order, numbers, and where errors come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError
from funcrec.core.random import key
from funcrec.core.replicas import alone
from funcrec.train import ahead
from funcrec.train.ahead import _moved
from tests.train.tiny import data, float64
from tests.train.tiny import step as make


def steps_of(batches, early, depth=3):
    with float64():
        step = make(("rowwise", "adagrad"))
        ts, losses = step.init(key(0)), []
        for batch in ahead(batches, step, ts, depth=depth) if early else batches:
            ts, info = step.train(ts, batch)
            losses.append(info["loss"])
    return losses, tree.leaves(ts.params), ts.tables["weights"]


@given(n=st.integers(0, 6), depth=st.integers(1, 8), weighted=st.booleans())
def test_steps_are_the_same_bit_for_bit(n: int, depth: int, weighted: bool) -> None:
    batches = [data(3 + i, seed=i, weighted=weighted) for i in range(n)]
    plain, early = steps_of(batches, False), steps_of(batches, True, depth)
    assert plain[0] == early[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], early[1], strict=True))
    assert all(torch.equal(x, early[2][name]) for name, x in plain[2].items())


class Walk(dict):
    """Ids that count how far they have gone."""

    def __init__(self, ids, log, name):
        super().__init__(ids)
        self.log, self.name, self.gone = log, name, 0

    def advance(self) -> bool:
        if self.gone < 3:
            self.gone += 1
            self.log.append((self.name, self.gone))
        return self.gone == 3


@given(n=st.integers(0, 7), depth=st.integers(1, 5))
def test_all_processes_would_go_the_same_steps_in_the_same_order(n: int, depth: int) -> None:
    """Each batch has arrived when it is handed out, and the next ones have begun; older ones go first."""
    log: list = []
    numbers = iter(range(n))
    begin = lambda tables, ids: Walk(ids, log, next(numbers))  # noqa: E731
    store = SimpleNamespace(begin=begin, spec=SimpleNamespace(features=()))
    step: Any = SimpleNamespace(store=store, replicas=alone())
    state: Any = SimpleNamespace(key=key(0), tables={})
    batches = [data(2, seed=i) for i in range(n)]
    for i, ready in enumerate(ahead(batches, step, state, depth=depth)):
        ids: Any = ready.ids
        assert ready.batch is not None
        assert torch.equal(ready.batch.features["label"], batches[i].features["label"])
        assert ids.gone == 3
        assert ready.total == ready.weight == 2.0
        begun = {name for name, _ in log}
        assert begun >= set(range(min(i + depth, n) - (depth > 1)))
    assert sorted(log) == [(i, s) for i in range(n) for s in (1, 2, 3)]
    for s in (1, 2, 3):
        assert [name for name, at in log if at == s] == sorted(range(n))


def test_an_error_of_the_data_comes_after_the_batches_before_it() -> None:
    def broken():
        yield data(2)
        yield data(2, seed=1)
        raise OSError("disk")

    with float64():
        step = make(("rowwise", "sgd"))
        seen = ahead(broken(), step, step.init(key(0)), depth=1)
        first = next(seen).batch
        assert first is not None
        assert len(first) == 2
        with pytest.raises(OSError, match="disk"):
            list(seen)
    with pytest.raises(ConfigError, match="depth: got 0"):
        next(ahead([], step, step.init(key(0)), depth=0))


def test_a_moved_batch_keeps_its_structure() -> None:
    batch = data(4, weighted=True)
    there = _moved(batch, torch.device("meta"))
    assert isinstance(there, Batch)
    assert len(there) == 4
    assert there.ids.keys() == batch.ids.keys()
    assert tree.paths(there.features) == tree.paths(batch.features)
    assert {x.device.type for x in tree.leaves(there.features)} == {"meta"}
    assert _moved(batch, torch.device("cpu")) is batch
