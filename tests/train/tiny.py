"""A small problem in float64: DeepFM over three id fields and one dense field."""

import contextlib

import torch
from tensordict import TensorDict

from funcrec import models, optim
from funcrec.core.batch import Batch
from funcrec.core.groups import Group
from funcrec.core.init import Normal
from funcrec.core.ragged import Ragged
from funcrec.core.random import bernoulli, fold_in, key, normal, randint, uniform
from funcrec.embedding import dense_store, rowwise_store, spec_for
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.train import make_step

ROWS = {"a": 7, "b": 5, "c": 11}
STORES = {
    ("dense", "sgd"): lambda spec: dense_store(spec, optim.sgd(0.1), l2=0.01),
    ("dense", "adagrad"): lambda spec: dense_store(spec, optim.adagrad(0.1, initial_accumulator=0.1), l2=0.01),
    ("dense", "adam"): lambda spec: dense_store(spec, optim.adam(0.01), l2=0.01),
    ("rowwise", "sgd"): lambda spec: rowwise_store(spec, rowwise.sgd(0.1)),
    ("rowwise", "adagrad"): lambda spec: rowwise_store(spec, rowwise.adagrad(0.1)),
    ("rowwise", "rowwise_adagrad"): lambda spec: rowwise_store(spec, rowwise.rowwise_adagrad(0.1)),
    ("rowwise", "adam"): lambda spec: rowwise_store(spec, rowwise.adam(0.01)),
}


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def data(n, seed=0, weighted=False, dtype=torch.float64):
    """Random rows; field c has between zero and three weighted ids a row."""
    k = key(seed)
    lengths = randint(fold_in(k, "lengths"), n, 0, 4)
    total = int(lengths.sum())
    values = randint(fold_in(k, "c"), total, 0, ROWS["c"])
    bags = Ragged.from_lengths(values, lengths, uniform(fold_in(k, "w"), total, 0.5, 2.0, torch.float32))
    ids = {name: randint(fold_in(k, name), n, 0, ROWS[name]) for name in ("a", "b")} | {"c": bags}
    features = {
        "dense": TensorDict({"x": normal(fold_in(k, "x"), (n, 1), dtype=dtype)}, [n]),
        "label": bernoulli(fold_in(k, "y"), 0.4, (n,)).to(dtype),
    }
    if weighted:
        features["weight"] = uniform(fold_in(k, "weight"), n, 0.1, 3.0, dtype)
    return Batch(ids, TensorDict(features, [n]))


def rows_of(batch, start, stop):
    index = torch.arange(start, min(stop, len(batch)))
    ids = {n: x[index] if isinstance(x, torch.Tensor) else x.select(index) for n, x in batch.ids.items()}
    return Batch(ids, batch.features[start:stop])


class Rows:
    """A dataset of one batch of rows: what ``fit`` reads."""

    def __init__(self, batch):
        self.batch = batch

    def batches(self, batch_size, *, key=None, start=0, drop_last=False):
        from funcrec.core.random import permutation

        n = len(self.batch)
        order = torch.arange(n) if key is None else permutation(key, n)
        for b in range(start, -(-n // batch_size)):
            index = order[b * batch_size : (b + 1) * batch_size]
            ids = {f: x[index] if isinstance(x, torch.Tensor) else x.select(index) for f, x in self.batch.ids.items()}
            yield Batch(ids, self.batch.features[index])


def model(mlp=None):
    ids = list(ROWS)
    deep = mlp or MLPConfig(hidden_units=(6, 4))
    return models.deepfm(
        models.DeepFMConfig(
            wide=Group.of("wide", ids, 1),
            deep=Group.of("deep", ids, 3, ["x"]),
            fm=Group.of("fm", ids, 3),
            deep_mlp=deep,
        )
    )


def step(store=("dense", "adam"), optimizer=None, mlp=None, dtype=torch.float64, **options):
    m = model(mlp)
    spec = spec_for(m.groups, ROWS, init=Normal(0.3), private=("wide",), dtype=dtype)
    return make_step(m, STORES[store](spec), optimizer or optim.adam(0.01), bce, **options)
