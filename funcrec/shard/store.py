"""The sharded store: the three verbs of a local one, over tables that lie on many ranks.

    with launched() as ranks:
        store = sharded_store(spec, rule, plan(spec, f"{ranks.world}xH100", batch=4096, rule=rule))
        tables = store.init(key)                            # every rank: its own shards
        emb, touched = store.lookup(tables, ids)            # of the rank's own rows
        tables = store.update(tables, touched, d_emb)       # summed over all ranks' rows, as one process would

Every rank takes part in every call. Batches may differ in size, and a rank may have no rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.ragged import Ids, concat_ids
from funcrec.embedding.rows import Deferred, Gradient
from funcrec.embedding.rowwise import rowwise_store
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import Store, Tables
from funcrec.optim import as_schedule
from funcrec.optim.rowwise import RowRule
from funcrec.shard.blocks import init_blocks
from funcrec.shard.checks import check_plan
from funcrec.shard.collections import Layout, make_collection
from funcrec.shard.direct import find_way
from funcrec.shard.exchange import Looked, exchange, push
from funcrec.shard.fused import check_rule, fused_kernels, set_progress
from funcrec.shard.placement import Plan
from funcrec.shard.reset import reset_blocks
from funcrec.shard.sending import Sent, send

ENTRY = "sharded"


@dataclass(frozen=True)
class Pending(Deferred):
    """Gradients of looked-up vectors, on their way to the ranks that own the rows: one part a micro-batch."""

    parts: tuple[tuple[Looked, TensorDict], ...]

    def plus(self, others: Sequence[Any]) -> Pending:
        return Pending((*self.parts, *(part for o in others for part in o.parts)))

    def times(self, factor: float | Tensor) -> Pending:
        return Pending(tuple((looked, d.apply(lambda x: x * factor)) for looked, d in self.parts))  # type: ignore[misc]

    def squared_norm(self) -> Tensor:
        fix = "leave max_norm and fp16 out; the rule's max_gradient clamps what each row receives"
        what = "the norm of the gradient of sharded tables"
        fail(ConfigError, what, got="rows that are summed where they are updated", expected="no norm", fix=fix)


def merged(parts: Sequence[tuple[Looked, TensorDict]]) -> tuple[Ids, TensorDict]:
    """Ids and gradients of several micro-batches as those of one; histories padded to the longest."""
    parts = [p for p in parts if p[0].batch] or parts[:1]
    first = parts[0][0].ids
    ids = {name: concat_ids([looked.ids[name] for looked, _ in parts]) for name in first}
    whole = {}
    for name in parts[0][1].keys():
        pieces = [d[name] for _, d in parts]
        if (steps := max(p.shape[1] for p in pieces)) and pieces[0].dim() == 3:
            pieces = [torch.nn.functional.pad(p, (0, 0, 0, steps - p.shape[1])) for p in pieces]
        whole[name] = torch.cat(pieces)
    return ids, TensorDict(whole, batch_size=[sum(d.batch_size[0] for _, d in parts)])


def sharded_store(
    spec: EmbeddingSpec,
    rule: RowRule,
    plan: Plan,
    *,
    group: dist.ProcessGroup | None = None,
    check_ids: bool = True,
) -> Store:
    """A store whose tables lie where ``plan`` puts them, exchanged by torchrec and updated by FBGEMM.

    The gradient of a row is the sum over all ranks, and each row takes one step of the rule: the semantics of
    :func:`~funcrec.embedding.rowwise_store` on the concatenated batch. (torchrec divides by the number of ranks; here
    it does not.) One exception: a column-wise or grid table under a row-wise rule has one statistic a row *and column
    shard*, the mean over the columns of that shard: another optimizer, as in torchrec.

    Data-parallel tables have a copy on every rank, which all update alike by our own rule from everybody's rows.

    Micro-batches of a step travel once more together when it ends, so that accumulation is one step of the sum. All
    ranks need as many of them.

    Args:
        plan: of these tables, for as many ranks as there are.
        group: the ranks; None: all of them.
        check_ids: see :func:`funcrec.embedding.lookup.gather`.

    Raises:
        ConfigError: no process group, a plan for other tables or another number of ranks, a rule that FBGEMM lacks;
            in use, a norm of the gradient (``max_norm``, fp16), which nobody knows before rows are updated.
    """
    if not dist.is_initialized():
        fail(ConfigError, "sharded_store: process group", got="none", fix="run inside of `with launched()`")
    ranks = dist.get_world_size(group)
    check_plan(spec, plan, ranks)
    layout, whole = Layout.of(spec, plan), group or dist.distributed_c10d._get_default_group()
    copies = rowwise_store(layout.replicated, rule, check_ids=check_ids)
    schedule = as_schedule(rule.learning_rate)

    def init(key: Tensor) -> Tables:
        modules = {}
        for name, lookups in layout.collections.items():
            check_rule(rule, key.device)
            modules[name] = make_collection(
                spec, lookups, plan, rule, whole, key.device, rows=name in layout.rows, checked=check_ids
            )
            init_blocks(spec, rule, modules[name], key)
        return {
            "modules": modules,
            "way": find_way(spec, layout.bags, modules["bags"], group) if layout.bags else None,
            "kernels": [k for m in modules.values() for k in fused_kernels(m)],
            "replicated": copies.init(key),
            "step": torch.zeros((), dtype=torch.int64),
            "scale": torch.ones((), dtype=torch.float64),
        }

    def begin(tables: Tables, ids: Ids) -> Sent:
        sent = send(spec, layout, tables, ids, group, check_ids)
        sent.advance()
        return sent

    def answer(tables: Tables, sent: Sent) -> Looked:
        steps = int(tables["step"])
        set_progress(tables["kernels"], steps, schedule(steps) * float(tables["scale"]))
        return exchange(spec, layout, copies, tables, sent, group)

    def lookup(tables: Tables, ids: Ids) -> tuple[TensorDict, Looked]:
        looked = answer(tables, ids if isinstance(ids, Sent) else begin(tables, ids))
        values = {name: x.detach() for name, x in sorted(looked.emb.items())}
        return TensorDict(values, batch_size=[looked.batch]), looked

    def gradient(tables: Tables, touched: Looked, d_emb: TensorDict) -> Gradient:
        del tables
        return {ENTRY: Pending(((touched, d_emb),))}  # type: ignore[dict-item]

    def regularize(tables: Tables, g: Gradient) -> Gradient:
        del tables
        return g

    def apply(tables: Tables, g: Gradient) -> Tables:
        pending: Any = g[ENTRY]
        if len(pending.parts) == 1:
            looked, d_emb = pending.parts[0]
        else:
            ids, d_emb = merged(pending.parts)
            looked = answer(tables, send(spec, layout, tables, ids, group, False))
        progress = {"step": tables["step"], "scale": tables["scale"]}  # one count, which a checkpoint restores
        replicated = push(looked, d_emb, copies, tables["replicated"] | progress, group)
        return {**tables, "replicated": replicated, "step": tables["step"] + 1}

    return Store(
        init, lookup, gradient, regularize, apply, spec, ranks, partial(reset_blocks, spec, rule, copies), begin
    )
