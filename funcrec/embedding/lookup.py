"""The lookup and its transpose, written once for every local store.

``gather`` maps stacked tables and ids to ``emb`` by group; ``scatter`` maps a gradient of ``emb`` back to the rows that
were touched. Both are linear in tables and gradients, and each is the other's adjoint:
``<d_emb, gather(W)> = <scatter(d_emb), W>``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.impl import Impl
from funcrec.core.ragged import Ids, Ragged
from funcrec.embedding.constants import constant
from funcrec.embedding.histories import find_steps, pad_histories
from funcrec.embedding.rows import RowGrad
from funcrec.embedding.spec import EmbeddingGroup, EmbeddingSpec
from funcrec.embedding.touched import StackTouched, Touched, batch_size, stacked_rows
from funcrec.kernels import registry


def _stack_values(weight: Tensor, touched: StackTouched, impl: Impl) -> Tensor:
    """The pooled vectors of one stack, ``[B, F, D]`` in the order of its lookups."""
    b, parts = touched.batch, []
    fused = registry.use("lookup", impl, weight, unsupported=registry.lookup.unsupported(weight))
    if touched.single is not None:
        rows = touched.single
        gather_rows = registry.lookup.gathered if fused else registry.lookup.gathered_reference
        parts.append(gather_rows(weight, rows.reshape(-1)).reshape(b, *rows.shape[1:], weight.shape[1]))
    if touched.bagged is not None:
        bags = len(touched.order) - (0 if touched.single is None else touched.single.shape[1])
        pool = registry.lookup.pooled if fused else registry.lookup.pooled_reference
        parts.append(pool(weight, *touched.bagged).reshape(bags, b, weight.shape[1]).transpose(0, 1))
    values = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    if touched.order != tuple(range(len(touched.order))):
        values = values.index_select(1, constant(touched.order, values.device))
    return values


def _columns(spec: EmbeddingSpec, group: EmbeddingGroup) -> list[tuple[str, int]]:
    """For each lookup of the group: its stack's name and its column there."""
    stacks = [spec.stack_of[lk.table] for lk in group.lookups]
    return [(s.name, s.columns[lk]) for s, lk in zip(stacks, group.lookups, strict=True)]


def _take(values: Tensor, columns: list[int]) -> Tensor:
    """``values[:, columns]``, as a view where the columns are consecutive."""
    if columns == list(range(columns[0], columns[0] + len(columns))):
        return values.narrow(1, columns[0], len(columns))
    return values.index_select(1, constant(columns, values.device))


def gather(
    spec: EmbeddingSpec, weights: TensorDict, ids: Ids, *, impl: Impl = "auto", check_ids: bool = True
) -> tuple[TensorDict, Touched]:
    """Look up every group, ``[B, N, D]`` where its dims agree, else ``[B, W]``, and every sequence, ``[B, T, W]``.

    Differentiable in ``weights``.

    Args:
        impl: which form runs; see :func:`funcrec.kernels.registry.use`.
        check_ids: whether the values of ids and lengths are looked at: an error on a CPU, an assertion on the device on
            a GPU, which costs some launches. Without it an id outside its table reads another table's row.
    """
    batch = batch_size(spec, ids) if spec.features else 0
    precision = {s.name: torch.promote_types(weights[s.name].dtype, torch.float32) for s in spec.stacks}
    steps = find_steps(spec, ids, batch, precision, check_ids)
    touched = {
        s.name: stacked_rows(s, ids, batch, precision[s.name], check_ids)._replace(steps=tuple(steps.get(s.name, ())))
        for s in spec.stacks
        if s.lookups or s.name in steps
    }
    values = {name: _stack_values(weights[name], t, impl) for name, t in touched.items() if t.order}
    emb = pad_histories(spec, weights, [(name, x) for name, t in touched.items() for x in t.steps], batch)
    for group in spec.groups:
        columns = _columns(spec, group)
        stacks = {name for name, _ in columns}
        if len({spec.stack_of[lk.table].dim for lk in group.lookups}) == 1:
            if len(stacks) == 1:
                emb[group.name] = _take(values[stacks.pop()], [c for _, c in columns])
            else:  # one dim in several dtypes
                emb[group.name] = torch.stack([values[name][:, c] for name, c in columns], dim=1)
        else:
            emb[group.name] = torch.cat([values[name][:, c] for name, c in columns], dim=1)
    return TensorDict(dict(sorted(emb.items())), batch_size=[batch]), touched


def _stack_gradients(spec: EmbeddingSpec, touched: Touched, d_emb: TensorDict) -> dict[str, Tensor]:
    """The transpose of the grouping: gradients of each stack's pooled vectors ``[B, F, D]``, summed over groups."""
    parts: dict[str, list[list[Tensor]]] = {s.name: [[] for _ in s.lookups] for s in spec.stacks}
    whole: dict[str, Tensor] = {}
    for group in spec.groups:
        d, columns, at = d_emb[group.name], _columns(spec, group), 0
        stack = spec.stack_of[group.lookups[0].table]
        if columns == [(stack.name, i) for i in range(len(stack.lookups))] and d.dim() == 3:
            whole[stack.name] = whole[stack.name] + d if stack.name in whole else d
            continue
        for i, (lookup, (name, column)) in enumerate(zip(group.lookups, columns, strict=True)):
            dim = spec.stack_of[lookup.table].dim
            parts[name][column].append(d[:, i] if d.dim() == 3 else d[:, at : at + dim])
            at += dim
    out = {}
    for stack in spec.stacks:
        if stack.lookups:
            mixed = parts[stack.name]
            total = whole.get(stack.name)
            if any(mixed):
                like = next(p for column in mixed for p in column)
                zero = torch.zeros_like(like)
                rest = torch.stack([sum(column[1:], column[0]) if column else zero for column in mixed], dim=1)
                total = rest if total is None else total + rest
            assert total is not None
            out[stack.name] = total
    return out


def scatter(
    spec: EmbeddingSpec, touched: Touched, d_emb: TensorDict, max_gradient: float | None = None
) -> dict[str, RowGrad]:
    """Gradients of the touched rows, by stack: the summands, which point into the gradients of the pooled vectors.

    ``max_gradient`` clamps each element of the gradient of the *pooled* vectors first, as FBGEMM's does.
    """
    out = {}
    pooled = _stack_gradients(spec, touched, d_emb)
    dims = {s.name: s.dim for s in spec.stacks}
    for name, t in touched.items():
        values, parts = [], []
        if name in pooled:
            values.append(pooled[name].reshape(-1, dims[name]))
            parts += _pointers(t)
        start = sum(v.shape[0] for v in values)
        for s in t.steps:
            d = d_emb[s.sequence][:, :, s.column : s.column + dims[name]]
            values.append(d.reshape(-1, dims[name]))
            parts.append(Pointers(s.rows, s.places + start, s.factors))
            start += values[-1].shape[0]
        if max_gradient is not None:
            values = [v.clamp(-max_gradient, max_gradient) for v in values]
        out[name] = RowGrad(values=values[0] if len(values) == 1 else torch.cat(values), **_joined(parts)._asdict())
    return out


class Pointers(NamedTuple):
    """Of each summand: its row, which row of the values it is (None: the same place), its factor (None: 1)."""

    rows: Tensor
    source: Tensor | None
    factors: Tensor | None


def _pointers(t: StackTouched) -> list[Pointers]:
    """Those of the pooled lookups into their gradients, ``[B, F, D]`` flattened to ``[B · F, D]``."""
    parts, n, fields = [], 0, len(t.order)
    column = sorted(range(fields), key=t.order.__getitem__)  # of [single..., bagged...], where each is among the F
    if t.single is not None:
        n = t.single.shape[1]
        source = None
        if column != list(range(n)):
            at = torch.arange(t.batch, device=t.single.device).unsqueeze(1) * fields
            source = (at + constant(column[:n], at.device)).reshape(-1)
        parts.append(Pointers(t.single.reshape(-1), source, None))
    if t.bagged is not None:
        rows, offsets, factors = t.bagged
        bag = Ragged(rows, offsets).segments()
        at = constant(column[n:], bag.device).index_select(0, bag // max(t.batch, 1))
        parts.append(Pointers(rows, bag % max(t.batch, 1) * fields + at, factors))
    return parts


def _joined(parts: list[Pointers]) -> Pointers:
    """All summands in one list."""
    if len(parts) == 1:
        return parts[0]
    some = next((p.factors for p in parts if p.factors is not None), None)
    factors = None if some is None else [some.new_ones(len(p.rows)) if p.factors is None else p.factors for p in parts]
    sources = [torch.arange(len(p.rows), device=p.rows.device) if p.source is None else p.source for p in parts]
    rows = torch.cat([p.rows for p in parts])
    return Pointers(rows, torch.cat(sources), None if factors is None else torch.cat(factors))
