"""Tables on one device: lookup and row-wise update with kernels, with plain torch, and with torch compiled.

python examples/bench/rows.py [--device cuda] [--rows 1000000 --dim 128 --tables 26 --batch 65536] [--rule adagrad]

One id a field, duplicates as they come. Looked-up vectors and the updated rows are compared before any time is printed.
Beside FBGEMM on a CPU: ``tables.py``.
"""

from __future__ import annotations

import argparse

import machine
import torch

from funcrec.core.init import Uniform
from funcrec.core.random import fold_in, key, normal, randint
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, Table, rowwise_store
from funcrec.optim import rowwise

FORMS = {
    "torch": {"impl": "reference"},
    "torch+compiled": {"impl": "reference", "compile": True},
    "kernels": {"impl": "auto"},
}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    p.add_argument("--rows", type=int, default=1_000_000, help="of every table")
    p.add_argument("--dim", type=int, default=128)
    p.add_argument("--tables", type=int, default=26)
    p.add_argument("--batch", type=int, default=65536)
    p.add_argument("--rule", default="rowwise_adagrad", choices=("sgd", "adagrad", "rowwise_adagrad", "adam"))
    p.add_argument("--repeats", type=int, default=20)
    return p.parse_args()


def main(o: argparse.Namespace) -> None:
    names = [f"t{i}" for i in range(o.tables)]
    spec = EmbeddingSpec(
        tables=tuple(Table(name=n, rows=o.rows, dim=o.dim, init=Uniform(-0.01, 0.01)) for n in names),
        groups=(EmbeddingGroup(name="g", lookups=tuple(Lookup(feature=n, table=n) for n in names)),),
    )
    start = key(0, o.device)
    ids = {n: randint(fold_in(start, n), o.batch, 0, o.rows) for n in names}
    d = normal(fold_in(start, "d"), (o.batch, o.tables, o.dim), std=1e-3)
    rule = getattr(rowwise, o.rule)(0.01)
    stores = {label: rowwise_store(spec, rule, check_ids=False, **options) for label, options in FORMS.items()}
    tables, touched, found = {}, {}, {}
    for label, store in stores.items():
        tables[label] = store.init(start)
        emb, touched[label] = store.lookup(tables[label], ids)
        tables[label] = store.update(tables[label], touched[label], emb.replace({"g": d}))
        rows = [spec.table(tables[label]["weights"], n).index_select(0, ids[n]) for n in names]
        found[label] = [emb["g"], torch.stack(rows, dim=1)]
        torch.testing.assert_close(found[label], found["torch"], rtol=1e-5, atol=1e-6)
    gradient = emb.replace({"g": d})
    del found, emb, rows

    def update(label: str) -> None:
        tables[label] = stores[label].update(tables[label], touched[label], gradient)

    lookups = {f: lambda f=f: stores[f].lookup(tables[f], ids) for f in ("torch", "kernels")}
    updates = {f: lambda f=f: update(f) for f in FORMS}
    print(f"{machine.name(o.device)}\n{o.tables} tables x {o.rows} x {o.dim}, batch {o.batch}, {o.rule}")
    for what, forms in (("lookup", lookups), ("update", updates)):
        ms = machine.side_by_side(forms, repeats=o.repeats, device=o.device)
        for label, t in ms.items():
            print(f"{what}  {label:16s} {t:8.3f} ms   {ms['torch'] / t:.2f}x torch")


if __name__ == "__main__":
    main(arguments())
