"""One lookup through the collections, and its way back: the part of the sharded store that ranks do together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.ragged import Ids, segment_sum
from funcrec.embedding.histories import find_steps
from funcrec.embedding.spec import EmbeddingSpec, Lookup
from funcrec.embedding.store import Store, Tables
from funcrec.embedding.touched import Touched, pooling_factors
from funcrec.shard.collections import Layout, name_of, quiet_torchrec
from funcrec.shard.copies import everybodys
from funcrec.shard.direct import Deliver, Way, look_up
from funcrec.shard.features import bags_of
from funcrec.shard.sending import Arrived, Sent


class Looked(NamedTuple):
    """What a lookup leaves for its update: ``emb`` with torch's graph behind it, and the leaves that are replicated."""

    ids: Ids
    batch: int
    emb: dict[str, Tensor]
    leaves: dict[str, Tensor]
    touched: Touched
    tables: Tables


@contextlib.contextmanager
def summed_gradients() -> Iterator[None]:
    """torchrec would divide gradients by the number of ranks."""
    quiet_torchrec()
    from torchrec.distributed.comm_ops import get_gradient_division, set_gradient_division

    before = get_gradient_division()
    set_gradient_division(False)
    try:
        yield
    finally:
        set_gradient_division(before)


def exchange(
    spec: EmbeddingSpec, layout: Layout, copies: Store, tables: Tables, sent: Sent, group: dist.ProcessGroup | None
) -> Looked:
    """All lookups of a batch. With gradients enabled the graph is kept for :func:`push`."""
    arrived = sent.arrived()
    with torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad(), summed_gradients():
        out = {name: tables["modules"][name].compute_and_output_dist(*x) for name, x in arrived.lists.items()}
        found = {name: x.wait() if hasattr(x, "wait") else x for name, x in out.items()}
        bags = (
            _direct_bags(tables["way"], arrived, group) if arrived.direct is not None else _bags(layout, found, arrived)
        )
        rows_of = {n: found[m][n].values() for m, lks in layout.rows.items() for n in (name_of(lk, True) for lk in lks)}
        emb_copies, touched = copies.lookup(tables["replicated"], {f: sent[f] for f in copies.spec.features})
        given: list[tuple[str, Tensor]] = list(emb_copies.items())  # type: ignore[arg-type]
        leaves = {n: x.detach().requires_grad_(torch.is_grad_enabled()) for n, x in given}
        emb = _groups(spec, layout, sent, arrived.batch, bags, rows_of, leaves)
    return Looked(sent, arrived.batch, emb, leaves, touched, tables)


class Bags(NamedTuple):
    """Pooled vectors ``[B, Σ D]``, and where that of each lookup is: first column and width."""

    values: Tensor
    columns: dict[Lookup, tuple[int, int]]

    def parts(self) -> dict[Lookup, Tensor]:
        """``[B, D]`` each, by one split: its transpose is one concatenation."""
        order = sorted(self.columns, key=lambda lk: self.columns[lk])
        return dict(zip(order, self.values.split([self.columns[lk][1] for lk in order], dim=1), strict=True))

    def together(self, lookups: Sequence[Lookup]) -> Tensor | None:
        """``[B, N, D]`` of these lookups, a view where they stand side by side; None where they do not."""
        at = [self.columns.get(lk) for lk in lookups]
        if any(x is None for x in at):
            return None
        first, dim = at[0] or (0, 0)
        if at != [(first + i * dim, dim) for i in range(len(at))]:
            return None
        return self.values[:, first : first + len(at) * dim].unflatten(1, (len(at), dim))


def _direct_bags(way: Way, arrived: Arrived, group: dist.ProcessGroup | None) -> Bags:
    assert arrived.direct is not None
    local = look_up(way, arrived.direct)
    return Bags(local if way.straight else Deliver.apply(local, way, arrived.batch, group), way.columns)


def _bags(layout: Layout, found: dict[str, Any], arrived: Arrived) -> Bags:
    """What the collection of bags answers."""
    if not layout.bags:
        return Bags(torch.empty(arrived.batch, 0), {})
    ends = found["bags"].offset_per_key()
    at = {name: (start, end - start) for name, start, end in zip(found["bags"].keys(), ends, ends[1:], strict=False)}
    values = found["bags"].values()
    # A slice of all rows would be one more copy in the backward pass.
    values = values if arrived.rows == arrived.batch else values[: arrived.batch]
    return Bags(values, {lk: at[name_of(lk, False)] for lk in layout.bags})


def _pool(lk: Lookup, ids: Ids, values: Tensor) -> Tensor:
    """Rows that came one by one, summed over the bags of a pooled lookup."""
    bags = bags_of(ids[lk.feature])
    bag = bags.segments()
    precision = torch.promote_types(values.dtype, torch.float32)
    factors = pooling_factors([lk], bags, bag, precision)
    values = values if factors is None else values.to(precision) * factors.unsqueeze(-1)
    return segment_sum(values, bag, len(bags))


def _dtype(spec: EmbeddingSpec, lookups: Sequence[Lookup]) -> torch.dtype:
    """Of what these tables hold together."""
    kinds = [spec.stack_of[lk.table].dtype for lk in lookups]
    return reduce(torch.promote_types, kinds)


def _groups(
    spec: EmbeddingSpec,
    layout: Layout,
    ids: Ids,
    batch: int,
    bags: Bags,
    rows: dict[str, Tensor],
    leaves: dict[str, Tensor],
) -> dict[str, Tensor]:
    """``emb`` by group, as the local stores make it: in the dtype of the tables."""
    copied, pieces = {t.name for t in layout.replicated.tables}, bags.parts()
    emb: dict[str, Tensor] = {}
    for group in spec.groups:
        whole, at = bags.together(group.lookups), 0
        if whole is not None:
            emb[group.name] = whole.to(_dtype(spec, group.lookups))
            continue
        parts = []
        for lk in group.lookups:
            dim = spec.stack_of[lk.table].dim
            if lk.table in copied:
                leaf = leaves[group.name].flatten(1)
                parts.append(leaf[:, at : at + dim])
                at += dim
            else:
                pooled = pieces[lk] if lk in pieces else _pool(lk, ids, rows[name_of(lk, True)])
                parts.append(pooled.to(_dtype(spec, [lk])))
        alike = len({p.shape[1] for p in parts}) == 1
        emb[group.name] = torch.stack(parts, dim=1) if alike else torch.cat(parts, dim=1)
    emb |= _histories(spec, copied, ids, batch, rows, leaves)
    return emb


def _histories(
    spec: EmbeddingSpec, copied: set[str], ids: Ids, batch: int, rows: dict[str, Tensor], leaves: dict[str, Tensor]
) -> dict[str, Tensor]:
    """``[B, T, Σ dims]`` of each sequence group."""
    precision = {s.name: torch.promote_types(s.dtype, torch.float32) for s in spec.stacks}
    found = {name: iter(steps) for name, steps in find_steps(spec, ids, batch, precision, True).items()}
    emb = {}
    for group in spec.sequences:
        parts, at = [], 0
        for lk in group.lookups:
            stack = spec.stack_of[lk.table]
            s = next(found[stack.name])
            if lk.table in copied:
                parts.append(leaves[group.name][:, :, at : at + stack.dim])
                at += stack.dim
                continue
            values = rows[name_of(lk, True)]
            values = values if s.factors is None else values * s.factors.to(values.dtype).unsqueeze(-1)
            padded = segment_sum(values.to(stack.dtype), s.places, batch * s.length)
            parts.append(padded.reshape(batch, s.length, stack.dim))
        emb[group.name] = torch.cat(parts, dim=2)
    return emb


def push(looked: Looked, d_emb: TensorDict, copies: Store, tables: Tables, group: dist.ProcessGroup | None) -> Tables:
    """Send the gradients back: sharded rows are updated on the way; returns the replicated tables, updated too.

    Raises:
        ConfigError: a lookup without a graph: it was made under ``torch.no_grad``.
    """
    graph = {name: x for name, x in looked.emb.items() if x.requires_grad}
    if not graph and looked.emb:
        fix = "look up with gradients enabled what is to be updated"
        fail(ConfigError, "sharded_store: a gradient of a lookup under no_grad", fix=fix)
    with summed_gradients():
        torch.autograd.backward([graph[n] for n in graph], [d_emb[n].to(graph[n].dtype) for n in graph])
    if not copies.spec.tables:
        return tables
    d_leaves = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in looked.leaves.items()}
    own = copies.gradient(tables, looked.touched, TensorDict(d_leaves, batch_size=[looked.batch]))
    return copies.apply(tables, everybodys(own, group))
