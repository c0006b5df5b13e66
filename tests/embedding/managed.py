"""A small managed problem, and its steps done by hand: the slots of a slow model, fresh rows written one by one."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from funcrec import optim
from funcrec.core.init import Normal, RowCountUniform
from funcrec.core.ragged import Ids, Nested, Ragged
from funcrec.core.random import fold_in, key, randint, uniform
from funcrec.embedding import (
    EmbeddingGroup,
    EmbeddingSpec,
    Lookup,
    SequenceGroup,
    Table,
    ZchConfig,
    dense_store,
    rowwise_store,
)
from funcrec.optim import rowwise
from tests.embedding.test_zch import Slow

ROWS = {"item": 7, "user": 4, "plain": 5}
CONFIGS = {
    "item": ZchConfig(policy="distance_lfu", interval=2),
    "user": ZchConfig(policy="lru", interval=3, admit=2, candidates=5),
}
READS = {"a": "item", "b": "item", "h": "item", "g": "item", "u": "user", "p": "plain"}


def make_spec(**rows: int) -> EmbeddingSpec:
    """``item``: one id, weighted bags, histories of ids and of bags, one feature in two groups; ``user``; ``plain``."""
    sizes = ROWS | rows
    inits: dict[str, Any] = {"item": RowCountUniform(), "user": Normal(0.5), "plain": Normal(1.0)}
    dims = {"item": 3, "user": 3, "plain": 2}
    tables = [Table(name=n, rows=sizes[n], dim=dims[n], init=inits[n]) for n in sizes]
    of = {f: Lookup(feature=f, table=t, pooling="mean" if f in "bg" else "sum") for f, t in READS.items()}
    first = EmbeddingGroup(name="first", lookups=(of["a"], of["b"], of["u"]))
    second = EmbeddingGroup(name="second", lookups=(of["p"], of["a"]))
    past = SequenceGroup(name="past", lookups=(of["h"], of["g"]))
    return EmbeddingSpec(tables=tuple(tables), groups=(first, second), sequences=(past,))


SPEC = make_spec()
STORES: dict[str, Any] = {
    "rowwise": lambda spec: rowwise_store(spec, rowwise.rowwise_adagrad(0.1, initial_accumulator=0.2)),
    "dense": lambda spec: dense_store(spec, optim.adagrad(0.1, initial_accumulator=0.2), l2=0.01),
}
HUGE = 2**61 - 1


def raw_ids(seed: int, batch: int, kinds: int = 9) -> Ids:
    """Raw ids of ``kinds`` different values, spread over all of int64; ids of ``plain`` are its rows."""
    k = key(seed)
    draw = lambda name, n: randint(fold_in(k, name), n, -kinds // 2, kinds - kinds // 2) * (HUGE // 3)  # noqa: E731
    lengths = {n: randint(fold_in(k, n + "#"), batch, 0, 4) for n in ("b", "h")}
    total = {n: int(x.sum()) for n, x in lengths.items()}
    steps = randint(fold_in(k, "g#"), total["h"], 0, 3)
    weights = uniform(fold_in(k, "w"), total["b"], 0.5, 2.0)
    return {
        "a": draw("a", batch),
        "b": Ragged.from_lengths(draw("b", total["b"]), lengths["b"], weights),
        "h": Ragged.from_lengths(draw("h", total["h"]), lengths["h"]),
        "g": Nested.from_lengths(Ragged.from_lengths(draw("g", int(steps.sum())), steps), lengths["h"]),
        "u": draw("u", batch),
        "p": randint(fold_in(k, "p"), batch, 0, ROWS["plain"]),
    }


def mapped(x: Any, slots: dict[int, int], unknown: int) -> Any:
    """A feature's ids as the slow model's rows."""
    if isinstance(x, Nested):
        return Nested(mapped(x.bags, slots, unknown), x.offsets)
    if isinstance(x, Ragged):
        return Ragged(mapped(x.values, slots, unknown), x.offsets, x.weights)
    return torch.tensor([slots.get(i, unknown) for i in x.tolist()], dtype=torch.int64)


def values_of(x: Any) -> list[int]:
    return (x if isinstance(x, torch.Tensor) else x.values).tolist()


def gradient_of(emb: TensorDict, i: int) -> TensorDict:
    return emb.apply(lambda x: torch.sin(3 * x + i))  # type: ignore[return-value]


def full(emb: TensorDict, value: float) -> TensorDict:
    return emb.apply(lambda x: torch.full_like(x, value))  # type: ignore[return-value]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return sorted(a.keys()) == sorted(b.keys()) and all(same(a[k], b[k]) for k in a.keys())


def copied(x: Any) -> Any:
    if isinstance(x, (torch.Tensor, TensorDict)):
        return x.clone()
    return [copied(y) for y in x] if isinstance(x, (list, tuple)) else {k: copied(y) for k, y in x.items()}


def statistics(tables: Any, kind: str) -> dict[str, list[torch.Tensor]]:
    """The optimizer's rows of each stack."""
    names = [s.name for s in SPEC.stacks]
    if kind == "rowwise":
        return {n: list(tables["slots"][n].values()) for n in names}
    return {n: [slot[i] for slot in tables["optimizer"]["slots"].values()] for i, n in enumerate(names)}


def by_hand(kind: str, batches: list[Ids], seed: int) -> Any:
    """The tables after steps on these batches, each row and statistic of a new id written here."""
    store = STORES[kind](SPEC)
    tables, slow = store.init(key(seed)), {n: Slow(c, ROWS[n]) for n, c in CONFIGS.items()}
    embs = []
    for step, ids in enumerate(batches, 1):
        rows = {f: mapped(x, slow[t].slot, ROWS[t] - 1) if (t := READS[f]) in slow else x for f, x in ids.items()}
        emb, touched = store.lookup(tables, rows)
        embs.append(emb.clone())
        tables = store.update(tables, touched, gradient_of(emb, step))
        for name, model in slow.items():
            model.observe([i for f, x in ids.items() if READS[f] == name for i in values_of(x)], step)
            if step % CONFIGS[name].interval == 0:
                table = next(t for t in SPEC.tables if t.name == name)
                drawn = table.init(fold_in(fold_in(key(seed), name), step), (table.rows, table.dim), table.dtype)
                for i, slot in enumerate(model.evict(step)):
                    SPEC.table(tables["weights"], name)[slot] = drawn[i]
                    for x in statistics(tables, kind)[SPEC.stack_of[name].name]:
                        x[SPEC.stack_of[name].offsets[name] + slot] = 0.2
    return tables, embs
