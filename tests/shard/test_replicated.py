"""Copies of any local store on every rank: the steps of one process on everybody's rows, the same bits on all ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec import optim
from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError
from funcrec.core.init import Normal
from funcrec.core.random import key
from funcrec.core.rows import concat, cut
from funcrec.embedding import dense_store, spec_for
from funcrec.embedding.rows import RowGrad, densify
from funcrec.embedding.store import Store
from funcrec.losses import bce
from funcrec.shard import replicas
from funcrec.shard.checkpoint import as_named
from funcrec.shard.replicated import replicated_store
from funcrec.train import Step, make_step
from tests.shard.processes import Ranks
from tests.train.tiny import ROWS, STORES, data, float64, model


def whole_gradients(spec: Any) -> Store:
    """A dense store whose gradients are those of whole tables from the start."""
    inner = dense_store(spec, optim.adam(0.01), l2=0.01)

    def gradient(tables, touched, d_emb):
        g = inner.gradient(tables, touched, d_emb)
        return {s.name: RowGrad(None, densify(g[s.name], s.rows), unique=True) for s in spec.stacks}

    return inner._replace(gradient=gradient)


def make(kind: Any, group: Any, world: int, dtype: torch.dtype = torch.float64, **options: Any) -> Step:
    m = model()
    spec = spec_for(m.groups, ROWS, init=Normal(0.3), private=("wide",), dtype=dtype)
    store = whole_gradients(spec) if kind == "whole" else STORES[kind](spec)
    if world > 1:
        store, options = replicated_store(store, group), options | {"replicas": replicas(group)}
    return make_step(m, store, optim.adam(0.01), bce, **options)


def batch_of(step: int, sizes: tuple[int, ...], rank: int | None, weighted: bool) -> Batch | None:
    """The rows of a rank, or those of all."""
    parts = [data(n, seed=10 * step + r, weighted=weighted) for r, n in enumerate(sizes)]
    if rank is None:
        return concat([p for p in parts if len(p)])
    return parts[rank] if sizes[rank] else None


def halves(batch: Batch | None) -> list[Batch | None]:
    if batch is None or len(batch) < 2:
        return [batch, None]
    return [cut(batch, 0, len(batch) // 2), cut(batch, len(batch) // 2, len(batch))]


def train(rank, world, group, kind, steps, weighted, micro):
    """Losses, norms, and all that the state holds, by name."""
    with float64():
        s = make(kind, group, world, max_norm=0.2)
        ts, seen = s.init(key(0)), []
        for i, sizes in enumerate(steps):
            batch = batch_of(i, sizes, rank if world > 1 else None, weighted)
            ts, info = s.train(ts, halves(batch) if micro else batch)
            seen += [info["loss"], info["grad_norm"]]
    return seen, as_named("", {"params": ts.params, "optimizer": ts.optimizer, "tables": ts.tables})


STEPS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(any), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", [("dense", "adam"), ("rowwise", "adagrad"), "whole"], ids=str)
@given(steps=STEPS, weighted=st.booleans(), micro=st.booleans())
@settings(max_examples=4)
def test_steps_are_those_of_one_process_on_everybodys_rows(ranks: Ranks, kind, steps, weighted, micro) -> None:
    """L2, a norm over everything that clips most steps, micro-batches, ranks without rows."""
    wanted, state = train(0, 1, None, kind, steps, weighted, False)
    (first, one), (second, two) = ranks.run(2, train, kind, steps, weighted, micro)
    assert first == second
    assert first == pytest.approx(wanted, rel=1e-9)
    assert one.keys() == two.keys() == state.keys()
    for name, x in state.items():
        assert torch.equal(one[name], two[name]), name
        torch.testing.assert_close(one[name], x, rtol=1e-7, atol=1e-10)


def overflow(rank, world, group, kind, large):
    """An fp16 step in which the rows of rank 1 alone have gradients that overflow, and one in which nobody's do."""
    s = make(kind, group, world, torch.float32, precision="fp16")
    parts = [data(6, seed=r, dtype=torch.float32) for r in range(2)]
    parts[1].features["dense", "x"][:] = large
    found = []
    ts = s.init(key(0))
    for _ in range(2):
        batch = parts[rank] if world > 1 else concat(parts)
        ts, info = s.train(ts, batch)
        found.append((info["skipped"], float(ts.loss_scale["scale"]), int(ts.step)))
        parts = [data(6, seed=10 + r, dtype=torch.float32) for r in range(2)]
    return found, [x.clone() for x in (*tree.leaves(ts.params), *tree.leaves(ts.tables["weights"]))]


@pytest.mark.parametrize("kind", [("dense", "adam"), ("rowwise", "adagrad")], ids=str)
def test_all_ranks_skip_a_step_that_overflows_on_one(ranks: Ranks, kind) -> None:
    wanted, _ = overflow(0, 1, None, kind, 1e4)
    (first, one), (second, two) = ranks.run(2, overflow, kind, 1e4)
    assert first == second == wanted
    assert [skipped for skipped, *_ in wanted] == [True, False]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def refused(rank, world, group):
    once = make(("dense", "adam"), group, world).store
    with pytest.raises(ConfigError, match="replicated_store: store: got a store of 2 processes"):
        replicated_store(once, group)
    ids: Any = {"zch": object()}
    odd = STORES["rowwise", "sgd"](once.spec)._replace(gradient=lambda tables, touched, d_emb: ids)
    with pytest.raises(ConfigError, match="gradient 'zch': got object"):
        replicated_store(odd, group).gradient({}, None, once.init(key(0))["weights"])


def test_other_stores_are_refused(ranks: Ranks) -> None:
    ranks.run(2, refused)
