"""Embedding tables: lookup, gradient and row-wise update, beside FBGEMM in one run.

python examples/bench/tables.py [--rows 100000 --dim 16 --tables 26 --batch 4096]

It compares outputs and tables first and refuses to print a ratio over a wrong answer.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass

import machine
import torch
import tyro

from funcrec.core.init import Uniform
from funcrec.core.random import fold_in, key, normal, randint
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, Table, rowwise_store
from funcrec.optim import rowwise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

RULES = {
    "sgd": (rowwise.sgd(0.01), EmbOptimType.EXACT_SGD),
    "adagrad": (rowwise.adagrad(0.01, eps=1e-8), EmbOptimType.EXACT_ADAGRAD),
    "rowwise_adagrad": (rowwise.rowwise_adagrad(0.01, eps=1e-8), EmbOptimType.EXACT_ROWWISE_ADAGRAD),
}


@dataclass(frozen=True)
class Options:
    """One id a field."""

    tables: int = 26
    rows: int = 100_000
    dim: int = 16
    batch: int = 4096
    repeats: int = 20


def compare(o: Options, name: str) -> dict[str, float]:
    rule, theirs_optimizer = RULES[name]
    names = [f"t{i}" for i in range(o.tables)]
    spec = EmbeddingSpec(
        tables=tuple(Table(name=n, rows=o.rows, dim=o.dim, init=Uniform(-0.01, 0.01)) for n in names),
        groups=(EmbeddingGroup(name="g", lookups=tuple(Lookup(feature=n, table=n) for n in names)),),
    )
    stores = {"eager": rowwise_store(spec, rule), "compiled": rowwise_store(spec, rule, compile=True)}
    tables = {label: store.init(key(0)) for label, store in stores.items()}
    theirs = SplitTableBatchedEmbeddingBagsCodegen(
        [(o.rows, o.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * o.tables,
        optimizer=theirs_optimizer,
        learning_rate=0.01,
        eps=1e-8,
    )
    for n, w in zip(names, theirs.split_embedding_weights(), strict=True):
        w.data.copy_(spec.table(tables["eager"]["weights"], n))
    ids = {n: randint(fold_in(key(1), n), o.batch, 0, o.rows) for n in names}
    flat, offsets = torch.cat(list(ids.values())), torch.arange(o.tables * o.batch + 1)
    d = normal(key(2), (o.batch, o.tables, o.dim), std=1e-3)

    def ours(label: str) -> None:
        emb, touched = stores[label].lookup(tables[label], ids)
        tables[label] = stores[label].update(tables[label], touched, emb.replace({"g": d}))

    def fbgemm() -> None:
        theirs(flat, offsets).backward(d.flatten(1))

    emb, _ = stores["eager"].lookup(tables["eager"], ids)
    torch.testing.assert_close(emb["g"].flatten(1), theirs(flat, offsets).detach(), rtol=1e-6, atol=1e-6)
    for _ in range(3):
        for label in stores:
            ours(label)
        fbgemm()
    for label in stores:
        for n, w in zip(names, theirs.split_embedding_weights(), strict=True):
            torch.testing.assert_close(spec.table(tables[label]["weights"], n), w, rtol=1e-5, atol=1e-6)
    candidates = {"eager": lambda: ours("eager"), "compiled": lambda: ours("compiled"), "fbgemm": fbgemm}
    return machine.side_by_side(candidates, repeats=o.repeats)


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    print(machine.name())
    print(
        f"{options.tables} tables x {options.rows} x {options.dim}, batch {options.batch}: lookup + gradient + update"
    )
    results = {name: compare(options, name) for name in RULES}
    for name, r in results.items():
        for label in ("eager", "compiled"):
            ratio = r["fbgemm"] / r[label]
            print(f"{name:16s} {label:8s} {r[label]:7.2f} ms   fbgemm {r['fbgemm']:7.2f} ms   speed-up {ratio:.2f}x")
    print(json.dumps(results))
