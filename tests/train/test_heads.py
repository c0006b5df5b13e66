"""Regression, several classes, and objectives of one's own through the same loop."""

from typing import Any

import pytest
import torch

from funcrec import metrics, models, optim
from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError
from funcrec.core.groups import Group
from funcrec.core.init import Normal
from funcrec.core.random import key
from funcrec.embedding import rowwise_store, spec_for
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce, l2, softmax_cross_entropy
from funcrec.optim import rowwise
from funcrec.train import FitConfig, Run, evaluate, fit, make_step
from tests.train.tiny import ROWS, Rows, data, step

IDS = list(ROWS)


def with_labels(batch, labels):
    return Batch(batch.ids, batch.features.clone().set("label", labels))


def build(loss, n_classes=1):
    group = Group.of("deep", IDS, 4, ["x"])
    mlp = MLPConfig(hidden_units=(8,))
    model = models.dcn_v2(models.DCNv2Config(group=group, deep=mlp, low_rank=2, n_classes=n_classes))
    spec = spec_for(model.groups, ROWS, init=Normal(0.3))
    return make_step(model, rowwise_store(spec, rowwise.adagrad(0.1)), optim.adam(0.02), loss)


def trained(s, batch, measured, **options):
    config = FitConfig(batch_size=64, epochs=30, maximize=False, keep_best=False, **options)
    reports = list(fit(Run(s.init(key(0))), s, Rows(batch), config, valid=Rows(batch), metrics=measured))
    return reports[-1].run


def test_regression_learns_numbers_outside_of_zero_and_one():
    batch = data(256, dtype=torch.float32)
    batch = with_labels(batch, 3.0 + 2.0 * batch.features["dense", "x"][:, 0])
    s, measured = build(l2), {"mse": metrics.mean_squared_error()}
    run = trained(s, batch, measured, monitor="mse", regression=True)
    variance = float(batch.features["label"].var())
    assert run.history[-1]["mse"] < 0.2 * variance
    again = evaluate(s, run.train, Rows(batch), measured, regression=True)
    assert again["mse"] == run.history[-1]["mse"]


def test_three_classes_are_told_apart():
    batch = data(256, dtype=torch.float32)
    batch = with_labels(batch, batch.ids["a"] % 3)
    s, measured = build(softmax_cross_entropy, 3), {"accuracy": metrics.accuracy()}
    run = trained(s, batch, measured, monitor="accuracy")
    assert run.history[-1]["accuracy"] > 0.9


def test_an_objective_of_the_loss_alone_is_the_loss():
    model = step(dtype=torch.float32).model

    def objective(params, emb, features, state, k):
        logits, state = model.apply(params, emb, features, state, key=k, train=True)
        return bce(logits, features["label"], features.get("weight", None)), (logits, state)

    batch, results = data(50, dtype=torch.float32, weighted=True), []
    ways: tuple[dict[str, Any], ...] = ({"loss": bce}, {"objective": objective})
    for options in ways:
        spec = spec_for(model.groups, ROWS, init=Normal(0.3), private=("wide",))
        s = make_step(model, rowwise_store(spec, rowwise.adam(0.01)), optim.adam(0.01), **options)
        ts, _ = s.train(s.init(key(0)), batch)
        results.append([*tree.leaves(ts.params), *tree.leaves(ts.tables["weights"])])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    refused: tuple[dict[str, Any], ...] = ({}, {"loss": bce, "objective": objective})
    for options in refused:
        with pytest.raises(ConfigError, match="loss and objective"):
            make_step(model, rowwise_store(spec, rowwise.adam(0.01)), optim.adam(0.01), **options)
