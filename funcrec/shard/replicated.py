"""Any local store with a copy of all its tables on every rank: whole tables, L2, a global norm, every rule."""

from __future__ import annotations

import torch
import torch.distributed as dist
from tensordict import TensorDict

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.rows import Gradient, RowGrad
from funcrec.embedding.store import Store, Tables
from funcrec.shard.copies import everybodys
from funcrec.shard.group import world_size


def replicated_store(store: Store, group: dist.ProcessGroup | None = None) -> Store:
    """``store``, of whose tables every rank has a copy that takes the step of all ranks' rows.

        store = replicated_store(dense_store(spec, optim.adam(1e-3), l2=0.05), ranks.group)
        step = make_step(model, store, optim.adam(1e-3), bce, max_norm=10.0, replicas=replicas(ranks.group))

    The gradients of all ranks' rows are gathered before anything is done with them. So they have a norm and a scale
    (``max_norm``, fp16, micro-batches), whole tables have their L2 term once, and each rank takes the same decisions
    with the same bits: the copies stay equal. Every rank takes part in every ``gradient``, without rows if need be.

    Memory and update are those of one process on every rank; only rows travel. Large tables belong into a
    :func:`~funcrec.shard.store.sharded_store`.

    Args:
        store: of this process alone: a dense or a row-wise one.
        group: the ranks; None: all of them.

    Raises:
        ConfigError: a store that already sums over processes; in use, one whose gradient is not of rows alone.
    """
    if store.processes != 1:
        seen = f"a store of {store.processes} processes"
        fail(ConfigError, "replicated_store: store", got=seen, expected="a local one", fix="take it as it is")

    def gradient(tables: Tables, touched: object, d_emb: TensorDict) -> Gradient:
        return summed_over(store.gradient(tables, touched, d_emb), group)

    return store._replace(gradient=gradient, processes=world_size(group))


def summed_over(own: Gradient, group: dist.ProcessGroup | None) -> Gradient:
    """The gradient of all ranks' rows, the same bits on every rank."""
    if world_size(group) == 1:
        return own
    for name, g in own.items():
        if not isinstance(g, RowGrad):
            fix = "wrap the other way round, managed(replicated_store(store), …, gather=everyones_ids(group)) say"
            fail(ConfigError, f"replicated_store: gradient {name!r}", got=type(g).__name__, expected="rows", fix=fix)
    out = everybodys({name: g for name, g in own.items() if g.rows is not None}, group)
    for name, g in own.items():
        if g.rows is None:
            total = g.values.clone()
            with torch.no_grad():
                dist.all_reduce(total, group=group)
            out[name] = RowGrad(None, total, unique=True)
    return out
