"""Lookups of histories: one id, or one bag of ids, a step; padded to one number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import DataError, ShapeError, fail
from funcrec.core.ragged import Ids, Nested, Ragged, rows_at, segment_sum
from funcrec.embedding.ranges import check_range, on_device
from funcrec.embedding.spec import EmbeddingSpec


class Steps(NamedTuple):
    """One sequence lookup: stacked rows ``[nnz]``, the place of each in ``[B · T]``, T, and where it ends up.

    ``factors`` ``[nnz]``: the factor of each row in the sum at its place, where a step holds several ids.
    """

    rows: Tensor
    places: Tensor
    factors: Tensor | None
    length: int
    sequence: str
    column: int


def _occurrences(x: Ragged | Nested, pooling: str, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The step of each id, counted through the batch, and its factor in the pooled step."""
    if isinstance(x, Ragged):
        return torch.arange(x.values.shape[0], device=x.values.device), None
    step, weights = x.bags.segments(), x.bags.weights
    factors = torch.ones_like(x.values, dtype=dtype) if weights is None else weights.to(dtype)
    if pooling == "mean":
        total = segment_sum(factors, step, len(x.bags))
        factors = factors * torch.where(total == 0, 0.0, 1.0 / total).index_select(0, step)
    return step, factors


def _check_lengths(what: str, first: str, held: Tensor, lengths: Tensor) -> None:
    """Raise unless two keys of a history have as many steps as each other in every row."""
    if on_device(lengths):
        torch._assert_async((held == lengths).all(), f"{what}: lengths differ from those of {first!r}")
    elif not torch.equal(held, lengths):
        fix = "every key of a history needs one id, or one bag, a step"
        fail(DataError, f"{what}: lengths differ from those of {first!r}", fix=fix)


def _check_longest(what: str, lengths: Tensor, pad_to: int) -> None:
    """Raise unless every history fits."""
    if on_device(lengths):
        torch._assert_async((lengths <= pad_to).all(), f"{what}: a history of more than pad_to={pad_to} steps")
    elif lengths.numel() and (longest := int(lengths.max())) > pad_to:
        fix = "cut histories in the schema (max_length), or enlarge pad_to"
        fail(DataError, what, got=f"a history of {longest} steps", expected=f"at most pad_to={pad_to}", fix=fix)


def find_steps(
    spec: EmbeddingSpec, ids: Ids, batch: int, dtypes: Mapping[str, torch.dtype], check_ids: bool = True
) -> dict[str, list[Steps]]:
    """The sequence lookups of each stack: every row's ids at the first places of its T.

    ``dtypes``: of the pooling factors, by stack. ``check_ids``: whether values are looked at, not only shapes.

    Raises:
        ShapeError: a feature that is no history of unweighted ids or of bags.
        DataError: keys of one history with different lengths, a history longer than ``pad_to``, an id out of range.
    """
    out: dict[str, list[Steps]] = {}
    for group in spec.sequences:
        column = 0
        first = group.lookups[0].feature
        for lk in group.lookups:
            x, stack = ids[lk.feature], spec.stack_of[lk.table]
            what = f"sequence {group.name!r}, feature {lk.feature!r}"
            if isinstance(x, Tensor) or (isinstance(x, Ragged) and x.weights is not None):
                seen = "one id a row" if isinstance(x, Tensor) else "weighted ids"
                fail(ShapeError, what, got=seen, expected="a Ragged of ids, one a step, or a Nested of bags")
            held = ids[first]
            assert not isinstance(held, Tensor)
            if check_ids and held is not x:
                _check_lengths(what, first, held.lengths, x.lengths)
            # The longest history decides on a shape: without pad_to the host has to wait for it.
            steps = group.pad_to if group.pad_to is not None else int(x.lengths.max()) if batch else 0
            if check_ids:
                if group.pad_to is not None:
                    _check_longest(what, x.lengths, steps)
                check_range(stack.name, [lk], x.values, next(t.rows for t in stack.tables if t.name == lk.table))
            row = (x if isinstance(x, Ragged) else x.steps()).segments()
            place = row * steps + torch.arange(row.shape[0], device=row.device) - x.offsets[row]
            step, factors = _occurrences(x, lk.pooling, dtypes[stack.name])
            rows = (x.values.long() + stack.offsets[lk.table]).to(stack.index_dtype)
            out.setdefault(stack.name, []).append(Steps(rows, place[step], factors, steps, group.name, column))
            column += stack.dim
    return out


def pad_histories(
    spec: EmbeddingSpec, weights: TensorDict, steps: Sequence[tuple[str, Steps]], batch: int
) -> dict[str, Tensor]:
    """``[B, T, Σ dims]`` of each sequence group, zero at padded steps; ``steps`` with the names of their stacks."""
    parts: dict[str, dict[int, Tensor]] = {group.name: {} for group in spec.sequences}
    for stack, s in steps:
        values = rows_at(weights[stack], s.rows)
        if s.factors is not None:
            values = values * s.factors.to(values.dtype).unsqueeze(-1)
        padded = segment_sum(values, s.places, batch * s.length)
        parts[s.sequence][s.column] = padded.reshape(batch, s.length, values.shape[1])
    columns = {name: [by_column[c] for c in sorted(by_column)] for name, by_column in parts.items()}
    return {name: c[0] if len(c) == 1 else torch.cat(c, dim=2) for name, c in columns.items()}
