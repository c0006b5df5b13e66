"""Regression, several classes, and objectives of one's own through the same loop."""

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch.func import grad_and_value

from funcrec import metrics, models, optim
from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError
from funcrec.core.groups import Group
from funcrec.core.init import Normal
from funcrec.core.ragged import Ragged
from funcrec.core.random import key, normal, randint
from funcrec.embedding import rowwise_store, spec_for
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce, l2, softmax_cross_entropy
from funcrec.optim import rowwise
from funcrec.train import FitConfig, Run, evaluate, fit, make_step
from tests.models.cases_full import FULL, WITH_CLASSES, Parts
from tests.train.tiny import ROWS, Rows, data, step

IDS = list(ROWS)
HISTORY = {"h": 9}


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


def with_history(n):
    """``data`` with another raw number and a history of one to three clicks."""
    batch, lengths = data(n, dtype=torch.float32), torch.arange(n) % 3 + 1
    clicks = Ragged.from_lengths(randint(key(8), int(lengths.sum()), 0, HISTORY["h"]), lengths)
    features = batch.features.clone().set("length", TensorDict({"clicks": lengths}, [n]))
    features["dense", "y"] = normal(key(9), (n, 1))
    return Batch(batch.ids | {"h": clicks}, features)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
@pytest.mark.parametrize("name", WITH_CLASSES)
def test_a_step_of_every_model_on_classes_and_on_numbers(name, kind):
    """``[B, C]`` logits, a step along the gradient of the loss of these logits, and a smaller loss after it."""
    n, classes, loss = (12, 3, softmax_cross_entropy) if kind == "classes" else (12, 1, l2)
    batch = with_history(n)
    labels = batch.ids["a"] % 3 if kind == "classes" else 3.0 + 2.0 * batch.features["dense", "x"][:, 0]
    batch = with_labels(batch, labels)
    model = FULL[name].make(FULL[name].config(Parts(), n_classes=classes))
    private = tuple(g.name for g in model.groups if g.name == "wide")
    spec = spec_for(model.groups, ROWS | HISTORY, init=Normal(0.3), private=private)
    s = make_step(model, rowwise_store(spec, rowwise.sgd(0.01)), optim.sgd(0.01), loss)
    ts = s.init(key(0))
    before, params = s.predict(ts, batch), ts.params.clone()
    assert before.shape == (n, classes)

    emb, _ = s.store.lookup(ts.tables, batch.ids)
    mean = lambda p: loss(model.apply(p, emb, batch.features, ts.state)[0], labels)  # noqa: E731
    slope, value = grad_and_value(mean)(params)
    ts, info = s.train(ts, batch)
    assert info["loss"] == pytest.approx(float(value), rel=1e-5)
    for path, x, old, g in zip(tree.paths(params), *map(tree.leaves, (ts.params, params, slope)), strict=True):
        assert bool(g.isfinite().all()), path
        torch.testing.assert_close(x, old - 0.01 * g, msg=path)
        # Of RocketLaunching the logits are the light net's, and move it alone.
        assert bool((g != 0).any()) == (name != "rocket_launching" or path.startswith("light.")), path
    assert float(loss(s.predict(ts, batch), labels)) < float(loss(before, labels))


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
