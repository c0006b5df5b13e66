"""Whole training steps on CPU: eager, compiled, and compiled under bfloat16 autocast.

python examples/bench/train_step.py [--models dlrm deepfm dcn_v2]

26 tables x 100k rows x 16 (DeepFM has wide tables of dim 4 besides), 13 dense features, batch 4096, one id a field,
row-wise Adagrad on the tables, Adam on the rest. Eager and compiled gradients are compared before any ratio is printed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import machine
import torch
import tyro
from tensordict import TensorDict

from funcrec import models, optim
from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.groups import Group
from funcrec.core.model import Model
from funcrec.core.random import bernoulli, fold_in, key, normal, randint
from funcrec.embedding import rowwise_store, spec_for
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.train import Step, make_step

IDS, DENSE = [f"C{i}" for i in range(1, 27)], [f"I{i}" for i in range(1, 14)]
DEEP = Group.of("deep", IDS, 16, DENSE)


def mlp(*units: int) -> MLPConfig:
    return MLPConfig(hidden_units=units)


MODELS: dict[str, Callable[[], Model]] = {
    "dlrm": lambda: models.dlrm(
        models.DLRMConfig(
            sparse=Group.of("sparse", IDS, 16),
            dense=Group.of("dense", [], 16, DENSE),
            dense_mlp=mlp(64, 16),
            final=mlp(64, 32),
        )
    ),
    "deepfm": lambda: models.deepfm(
        models.DeepFMConfig(
            wide=Group.of("wide", IDS, 4),
            deep=DEEP,
            fm=Group.of("fm", IDS, 16),
            deep_mlp=mlp(512, 256, 128),
            final=mlp(64),
        )
    ),
    "dcn_v2": lambda: models.dcn_v2(
        models.DCNv2Config(group=DEEP, cross_num=3, low_rank=32, deep=mlp(512, 256, 128), final=mlp(64))
    ),
}
# Milliseconds of TorchEasyRec 1.3.16 (torchrec on gloo) at these sizes on two cores of another run: for orientation.
RECORDED_MS = {"dlrm": 82.0, "deepfm": 158.0, "dcn_v2": 123.0}


@dataclass(frozen=True)
class Options:
    """Sizes and repeats."""

    models: tuple[str, ...] = tuple(MODELS)
    rows: int = 100_000
    batch: int = 4096
    repeats: int = 15
    out: str | None = None
    """Also write the results as JSON here."""


def batch_of(o: Options) -> Batch:
    k = key(0)
    dense = TensorDict({n: normal(fold_in(k, n), (o.batch, 1)) for n in DENSE}, [o.batch])
    label = bernoulli(fold_in(k, "label"), 0.3, (o.batch,)).float()
    ids = {n: randint(fold_in(k, n), o.batch, 0, o.rows) for n in IDS}
    return Batch(ids, TensorDict({"dense": dense, "label": label}, [o.batch]))


def make(name: str, o: Options, **options: Any) -> Step:
    model = MODELS[name]()
    wide = [g.name for g in model.groups if g.name == "wide"]
    spec = spec_for(model.groups, dict.fromkeys(IDS, o.rows), private=wide)
    store = rowwise_store(spec, rowwise.rowwise_adagrad(0.01), compile=options.get("compile", False))
    return make_step(model, store, optim.adam(1e-3), bce, **options)


def check(a: Step, b: Step, batch: Batch, tolerance: float) -> None:
    """Three steps of both from the same start: the weights must have moved by the same amount, up to ``tolerance``."""
    states = [s.init(key(1)) for s in (a, b)]
    start = [x.clone() for x in tree.leaves(states[0].params)]
    for _ in range(3):
        states = [s.train(ts, batch)[0] for s, ts in zip((a, b), states, strict=True)]
    for path, x0, x, y in zip(
        tree.paths(states[0].params), start, *(tree.leaves(s.params) for s in states), strict=True
    ):
        error = float((x - y).norm() / (x - x0).norm())
        if error > tolerance:
            raise SystemExit(f"wrong answer: {path} moved differently, relative error {error:.2e}")


def bench(name: str, o: Options) -> dict[str, float]:
    batch = batch_of(o)
    steps = {
        "eager": make(name, o),
        "compiled": make(name, o, compile=True),
        "compiled_bf16": make(name, o, compile=True, precision="bf16"),
    }
    check(steps["eager"], steps["compiled"], batch, 0.02)
    check(steps["eager"], steps["compiled_bf16"], batch, 0.5)  # Adam turns small gradients' noise into whole steps
    states = {label: s.init(key(1)) for label, s in steps.items()}

    def runner(label: str) -> Callable[[], None]:
        def one() -> None:
            states[label], _ = steps[label].train(states[label], batch)

        return one

    return machine.side_by_side({label: runner(label) for label in steps}, repeats=o.repeats)


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    print(machine.name())
    ceilings = machine.ceilings()
    print("ceilings: " + ", ".join(f"{k} {v:.0f}" for k, v in ceilings.items()))
    results: dict[str, Any] = {"machine": machine.name(), "ceilings": ceilings, "torch": torch.__version__}
    for name in options.models:
        ms = bench(name, options)
        results[name] = ms
        for label, t in ms.items():
            rate, ratio = options.batch / t * 1e3, ms["eager"] / t
            recorded = RECORDED_MS[name] / t
            print(
                f"{name:8s} {label:14s} {t:7.1f} ms  {rate:9,.0f} rows/s  {ratio:.2f}x eager"
                f"  {recorded:.1f}x TorchEasyRec's recorded {RECORDED_MS[name]:.0f} ms"
            )
    if options.out:
        with open(options.out, "w") as f:
            json.dump(results, f, indent=1)
