"""Embedding tables: lookup, gradient and row-wise update, beside FBGEMM in one run, on a CPU or on a GPU.

python examples/bench/tables.py [--device cuda] [--rows 100000 --dim 16 --tables 26 --batch 4096] [--rules adagrad]

One id a field, duplicates as they come. Looked-up vectors and touched rows are compared after one step and again after
three, and there is no time over a wrong answer. Without FBGEMM installed its column is missing.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from torch import Tensor

from funcrec.core.init import Uniform
from funcrec.core.random import fold_in, key, normal, randint
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, Table, rowwise_store
from funcrec.optim import rowwise

RULES = ("sgd", "adagrad", "rowwise_adagrad")  # those that FBGEMM has on a CPU
FORMS: dict[str, dict[str, Any]] = {
    "eager": {"impl": "reference"},
    "compiled": {"impl": "reference", "compile": True},
    "kernels": {"impl": "auto"},
}
One = tuple[Callable[[], Tensor], Callable[[], None], Callable[[str], Tensor]]  # look up; a step; the rows of a table


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--tables", type=int, default=26)
    p.add_argument("--rows", type=int, default=100_000, help="of every table")
    p.add_argument("--dim", type=int, default=16)
    p.add_argument("--batch", type=int, default=4096)
    p.add_argument("--rules", nargs="+", default=RULES, choices=RULES)
    p.add_argument("--repeats", type=int, default=20)
    p.add_argument("--out", type=Path, help="also write the results as JSON here")
    o = p.parse_args()
    o.names = [f"t{i}" for i in range(o.tables)]
    return o


def ours(o: argparse.Namespace, rule: str, form: str, ids: dict[str, Tensor], d: Tensor) -> One:
    spec = EmbeddingSpec(
        tables=tuple(Table(name=n, rows=o.rows, dim=o.dim, init=Uniform(-0.01, 0.01)) for n in o.names),
        groups=(EmbeddingGroup(name="g", lookups=tuple(Lookup(feature=n, table=n) for n in o.names)),),
    )
    store = rowwise_store(spec, getattr(rowwise, rule)(0.01), check_ids=o.device == "cpu", **FORMS[form])
    tables = store.init(key(0, o.device))

    def step() -> None:
        nonlocal tables
        emb, touched = store.lookup(tables, ids)
        tables = store.update(tables, touched, emb.replace({"g": d}))

    return lambda: store.lookup(tables, ids)[0]["g"].flatten(1), step, lambda n: spec.table(tables["weights"], n)


def fbgemm(o: argparse.Namespace, rule: str, start: Callable[[str], Tensor], ids: dict[str, Tensor], d: Tensor) -> One:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )
    on_cpu = o.device == "cpu"
    place = (EmbeddingLocation.HOST, ComputeDevice.CPU) if on_cpu else (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    theirs = SplitTableBatchedEmbeddingBagsCodegen(
        [(o.rows, o.dim, *place)] * o.tables,
        optimizer=EmbOptimType[f"EXACT_{rule.upper()}"],
        learning_rate=0.01,
        eps=1e-8,
        device=torch.device(o.device, 0) if not on_cpu else None,
    )
    weights = dict(zip(o.names, theirs.split_embedding_weights(), strict=True))
    for n, w in weights.items():
        w.data.copy_(start(n))
    flat, offsets = torch.cat(list(ids.values())), torch.arange(o.tables * o.batch + 1, device=o.device)
    d = d.flatten(1)
    return lambda: theirs(flat, offsets), lambda: theirs(flat, offsets).backward(d), weights.__getitem__


def compare(o: argparse.Namespace, rule: str) -> dict[str, dict[str, float]]:
    k = key(1, o.device)
    ids = {n: randint(fold_in(k, n), o.batch, 0, o.rows) for n in o.names}
    d = normal(fold_in(k, "d"), (o.batch, o.tables, o.dim), std=1e-3)
    forms = [f for f in FORMS if o.device != "cpu" or f != "kernels"]
    sides = {f: ours(o, rule, f, ids, d) for f in forms}
    try:
        sides["fbgemm"] = fbgemm(o, rule, sides["eager"][2], ids, d)
    except ImportError as e:
        print(f"no FBGEMM here: {e}")
    for steps in (0, 1, 2):
        expected: list[Tensor] = []
        for lookup, step, table in sides.values():
            for _ in range(steps):
                step()
            seen = [lookup().detach(), *(table(n).index_select(0, ids[n]) for n in o.names)]
            expected = expected or seen
            torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-6)
    del expected, seen
    with torch.no_grad():
        looked_up = machine.side_by_side({f: s[0] for f, s in sides.items()}, repeats=o.repeats, device=o.device)
    stepped = machine.side_by_side({f: s[1] for f, s in sides.items()}, repeats=o.repeats, device=o.device)
    return {f: {"lookup": looked_up[f], "step": stepped[f]} for f in sides}


def main() -> None:
    o = arguments()
    on = machine.name(o.device)
    print(f"{on}\n{o.tables} tables x {o.rows} x {o.dim}, batch {o.batch}; a step is lookup + gradient + update")
    results = {}
    for rule in o.rules:
        results[rule] = compare(o, rule)
        theirs = results[rule].get("fbgemm")
        for form, ms in results[rule].items():
            line = f"{rule:16s} {form:9s} lookup {ms['lookup']:8.3f} ms  step {ms['step']:8.3f} ms"
            if theirs and form != "fbgemm":
                ratios = " / ".join(f"{theirs[what] / ms[what]:.2f}x" for what in ("lookup", "step"))
                line += f"  FBGEMM's time over ours: {ratios}"
            print(line, flush=True)
    if o.out:
        sizes = {n: getattr(o, n) for n in ("tables", "rows", "dim", "batch", "repeats")}
        o.out.write_text(json.dumps({"machine": on, **sizes, "rules": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
