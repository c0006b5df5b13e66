"""Managed tables in training: runs that are resumed, predictions, skipped steps, gradients that are not finite."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from tensordict import TensorDict

from funcrec import models, optim
from funcrec.core.batch import Batch
from funcrec.core.errors import CheckpointError, NonFiniteError
from funcrec.core.groups import Group
from funcrec.core.init import Normal
from funcrec.core.random import fold_in, key, randint, uniform
from funcrec.embedding import ZchConfig, dense_store, managed, rowwise_store, spec_for
from funcrec.embedding.rows import scale
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.train import FitConfig, Run, checkpoint, fit, make_step
from tests.embedding.managed import STORES, copied, same


def batch_of(seed: int, n: int = 12) -> Batch:
    k = key(seed)
    features = {"label": (uniform(fold_in(k, "y"), n) < 0.4).float()}
    return Batch(
        {"x": randint(fold_in(k, "x"), n, 0, 40) ** 11, "y": randint(fold_in(k, "y"), n, 0, 3)},
        TensorDict(features, [n]),
    )


def step_of(rows: int = 9, kind: str = "rowwise", **options: Any) -> Any:
    model = models.lr(models.LRConfig(wide=Group.of("wide", ["x", "y"], 1)))
    spec = spec_for(model.groups, {"x": rows, "y": 3}, init=Normal(0.1))
    stores = {
        "rowwise": lambda: rowwise_store(spec, rowwise.adam(0.05)),
        "dense": lambda: dense_store(spec, optim.adam(0.05)),
    }
    return make_step(model, managed(stores[kind](), {"x": ZchConfig(interval=3)}), optim.adam(0.01), bce, **options)


class Batches:
    def batches(self, batch_size, *, key=None, start=0, drop_last=False):
        return iter([batch_of(i, batch_size) for i in range(start, 10)])


@pytest.mark.parametrize("kind", STORES)
def test_a_resumed_run_continues_bit_for_bit_and_predictions_do_not_count(tmp_path, kind):
    step, config = step_of(kind=kind, max_norm=0.5), FitConfig(batch_size=12, epochs=2, accumulate=2)
    *_, last = fit(Run(step.init(key(0))), step, Batches(), config)
    whole = copied(last.run.train.tables)
    r = next(islice(fit(Run(step.init(key(0))), step, Batches(), config), 6, None))
    step.predict(r.run.train, batch_of(99))
    checkpoint.save(tmp_path, r.run, {})
    resumed, _ = checkpoint.load(checkpoint.latest(tmp_path), {})
    *_, last = fit(resumed, step, Batches(), config)
    assert same(whole, last.run.train.tables)
    assert int(whole["zch"]["x"]["step"]) == 10
    other = step_of(rows=11, kind=kind)
    with pytest.raises(CheckpointError, match="table 'x': rows of its map: got 9, expected 11"):
        other.train(resumed.train, batch_of(0))


def test_a_skipped_step_does_not_count_and_a_bad_gradient_is_named():
    step = step_of(max_norm=1.0)
    bad = step.store._replace(regularize=lambda tables, g: scale(g, float("inf")))
    with pytest.raises(NonFiniteError, match=r"a gradient is not finite.*gradient of tables"):
        make_step(step.model, bad, optim.adam(0.01), bce, max_norm=1.0).train(step.init(key(0)), batch_of(0))
    half = make_step(step.model, bad, optim.adam(0.01), bce, precision="fp16")
    ts = half.init(key(0))
    before = copied(ts.tables["zch"])
    ts, info = half.train(ts, batch_of(0))
    assert info["skipped"]
    assert same(before, ts.tables["zch"])
