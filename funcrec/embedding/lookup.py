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

from funcrec.core.errors import DataError, ShapeError, fail
from funcrec.core.ragged import Ids, Nested, Ragged, segment_sum
from funcrec.embedding.histories import Steps, find_steps, pad_histories
from funcrec.embedding.ranges import check_range
from funcrec.embedding.rows import RowGrad
from funcrec.embedding.spec import EmbeddingGroup, EmbeddingSpec, Stack


class StackTouched(NamedTuple):
    """What one stack's update needs: stacked-row numbers in the order of the occurrences, and how each was pooled.

    ``single``: ``[B, F1]`` rows of the features with one id a row. ``bagged``: rows ``[nnz]``, their segment
    (feature-major, ``f * B + b``) and their factor in the pooled sum. ``order``: where each lookup of the stack stands
    among [single..., bagged...]. ``steps``: the sequence lookups.
    """

    single: Tensor | None
    bagged: tuple[Tensor, Tensor, Tensor] | None
    order: tuple[int, ...]
    batch: int
    steps: tuple[Steps, ...] = ()


Touched = dict[str, StackTouched]


def _batch_size(spec: EmbeddingSpec, ids: Ids) -> int:
    sizes = {}
    for name in spec.features:
        if name not in ids:
            fail(DataError, f"ids of feature {name!r}", got=f"only {sorted(ids)}", fix="add the feature to the batch")
        x = ids[name]
        ids_of = x if isinstance(x, Tensor) else x.values
        if ids_of.dim() != 1 or ids_of.dtype not in (torch.int64, torch.int32):
            fail(
                ShapeError,
                f"ids of feature {name!r}",
                got=f"{tuple(ids_of.shape)} {ids_of.dtype}",
                expected="int64 [B], or a Ragged of int64 values",
            )
        sizes[name] = len(x)
    if len(set(sizes.values())) != 1:
        fail(ShapeError, "ids: rows per feature", got=sizes, expected="one batch size")
    return next(iter(sizes.values()))


def _stacked_rows(stack: Stack, ids: Ids, batch: int, dtype: torch.dtype) -> StackTouched:
    """The row numbers of one stack, checked: single-id features as one matrix, ragged ones as one list."""
    rows_of = {t.name: t.rows for t in stack.tables}
    nested = [lk.feature for lk in stack.lookups if isinstance(ids[lk.feature], Nested)]
    if nested:
        fail(ShapeError, f"features {nested}", got="a bag of ids a step", expected="ids to pool: list it in a sequence")
    single = [lk for lk in stack.lookups if isinstance(ids[lk.feature], Tensor)]
    bagged = [lk for lk in stack.lookups if isinstance(ids[lk.feature], Ragged)]
    order = tuple([*single, *bagged].index(lk) for lk in stack.lookups)
    matrix = bags = None
    if single:
        columns = torch.stack([ids[lk.feature] for lk in single], dim=1)  # type: ignore[misc]
        sizes = torch.tensor([rows_of[lk.table] for lk in single], device=columns.device)
        check_range(stack, single, columns, sizes)
        starts = torch.tensor([stack.offsets[lk.table] for lk in single], device=columns.device)
        matrix = (columns + starts).to(stack.index_dtype)
    if bagged:
        values, segments, factors, of = [], [], [], []
        for f, lk in enumerate(bagged):
            x = ids[lk.feature]
            assert isinstance(x, Ragged)
            segment = x.segments()
            factor = torch.ones_like(x.values, dtype=dtype) if x.weights is None else x.weights.to(dtype)
            if lk.pooling == "mean":
                total = segment_sum(factor, segment, batch)
                factor = factor * torch.where(total == 0, 0.0, 1.0 / total).index_select(0, segment)
            values.append(x.values.long())
            segments.append(segment + f * batch)
            factors.append(factor)
            of.append(torch.full_like(segment, f))
        ids_cat, of_cat = torch.cat(values), torch.cat(of)
        sizes = torch.tensor([rows_of[lk.table] for lk in bagged], device=ids_cat.device)
        check_range(stack, bagged, ids_cat, sizes[of_cat], of_cat)
        starts = torch.tensor([stack.offsets[lk.table] for lk in bagged], device=ids_cat.device)
        bags = ((ids_cat + starts[of_cat]).to(stack.index_dtype), torch.cat(segments), torch.cat(factors))
    return StackTouched(matrix, bags, order, batch)


def _stack_values(weight: Tensor, touched: StackTouched) -> Tensor:
    """The pooled vectors of one stack, ``[B, F, D]`` in the order of its lookups."""
    b, parts = touched.batch, []
    if touched.single is not None:
        # index_select: ten times faster than weight[rows] on CPU
        rows = touched.single
        parts.append(weight.index_select(0, rows.reshape(-1)).reshape(b, *rows.shape[1:], weight.shape[1]))
    if touched.bagged is not None:
        rows, segments, factors = touched.bagged
        bags = len(touched.order) - (0 if touched.single is None else touched.single.shape[1])
        weighted = weight.index_select(0, rows) * factors.to(weight.dtype).unsqueeze(-1)
        parts.append(segment_sum(weighted, segments, bags * b).reshape(bags, b, weight.shape[1]).transpose(0, 1))
    values = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    if touched.order != tuple(range(len(touched.order))):
        values = values.index_select(1, torch.tensor(touched.order, device=values.device))
    return values


def _columns(spec: EmbeddingSpec, group: EmbeddingGroup) -> list[tuple[str, int]]:
    """For each lookup of the group: its stack's name and its column there."""
    stacks = [spec.stack_of[lk.table] for lk in group.lookups]
    return [(s.name, s.lookups.index(lk)) for s, lk in zip(stacks, group.lookups, strict=True)]


def _take(values: Tensor, columns: list[int]) -> Tensor:
    """``values[:, columns]``, as a view where the columns are consecutive."""
    if columns == list(range(columns[0], columns[0] + len(columns))):
        return values.narrow(1, columns[0], len(columns))
    return values.index_select(1, torch.tensor(columns, device=values.device))


def gather(spec: EmbeddingSpec, weights: TensorDict, ids: Ids) -> tuple[TensorDict, Touched]:
    """Look up every group, ``[B, N, D]`` where its dims agree, else ``[B, W]``, and every sequence, ``[B, T, W]``.

    Differentiable in ``weights``.
    """
    batch = _batch_size(spec, ids) if spec.features else 0
    precision = {s.name: torch.promote_types(weights[s.name].dtype, torch.float32) for s in spec.stacks}
    steps = find_steps(spec, ids, batch, precision)
    touched = {
        s.name: _stacked_rows(s, ids, batch, precision[s.name])._replace(steps=tuple(steps.get(s.name, ())))
        for s in spec.stacks
        if s.lookups or s.name in steps
    }
    values = {name: _stack_values(weights[name], t) for name, t in touched.items() if t.order}
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
    """Gradients of the touched rows, by stack, duplicates not yet summed.

    ``max_gradient`` clamps each element of the gradient of the *pooled* vectors first, as FBGEMM's does.
    """
    out = {}
    pooled = _stack_gradients(spec, touched, d_emb)
    for name, t in touched.items():
        rows, grads, n, dim = [], [], 0, next(s.dim for s in spec.stacks if s.name == name)
        if name in pooled:
            d = pooled[name]
            if max_gradient is not None:
                d = d.clamp(-max_gradient, max_gradient)
            if t.order != tuple(range(len(t.order))):
                inverse = sorted(range(len(t.order)), key=t.order.__getitem__)
                d = d.index_select(1, torch.tensor(inverse, device=d.device))
            if t.single is not None:
                n = t.single.shape[1]
                rows.append(t.single.reshape(-1))
                grads.append(d[:, :n].reshape(-1, dim))
            if t.bagged is not None:
                bag_rows, segments, factors = t.bagged
                by_bag = d[:, n:].transpose(0, 1).reshape(-1, dim)
                rows.append(bag_rows)
                grads.append(by_bag.index_select(0, segments) * factors.to(d.dtype).unsqueeze(-1))
        for s in t.steps:
            steps = d_emb[s.sequence][:, :, s.column : s.column + dim]
            d = steps.reshape(-1, dim).index_select(0, s.places)
            d = d if max_gradient is None else d.clamp(-max_gradient, max_gradient)
            rows.append(s.rows)
            grads.append(d if s.factors is None else d * s.factors.to(d.dtype).unsqueeze(-1))
        one = len(rows) == 1
        out[name] = RowGrad(rows[0] if one else torch.cat(rows), grads[0] if one else torch.cat(grads))
    return out
