"""Batches from the original's jagged features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import DataError, ShapeError, fail
from funcrec.core.ragged import Nested, Ragged

Jagged = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""Values of all rows one after the other, how many each row has, and their weights where they are weighted."""


def ragged(name: str, jagged: Jagged) -> Ragged:
    """Checked ids of one feature."""
    values, lengths, *weights = jagged
    if values.dim() != 1 or values.is_floating_point() or lengths.dim() != 1 or lengths.is_floating_point():
        seen = f"values {tuple(values.shape)} {values.dtype}, lengths {tuple(lengths.shape)} {lengths.dtype}"
        fail(ShapeError, f"sparse feature {name!r}", got=seen, expected="integer values [nnz] and lengths [B]")
    if int(lengths.sum()) != len(values) or (len(lengths) and int(lengths.min()) < 0):
        fail(ShapeError, f"sparse feature {name!r}: lengths", got=f"sum {int(lengths.sum())}", expected=len(values))
    return Ragged.from_lengths(values.long(), lengths, *weights)


def history(name: str, jagged: Jagged, bags: bool) -> Ragged | Nested:
    """Checked ids of a history: one a step, or a bag a step."""
    if len(jagged) != (3 if bags else 2):
        form = "(values, ids of each step, steps of each row)" if bags else "(values, steps of each row)"
        fix = "bags of ids are the steps of a feature whose value_dim is not 1"
        fail(ShapeError, f"sequence feature {name!r}", got=f"{len(jagged)} tensors", expected=form, fix=fix)
    x = ragged(name, jagged[:2])
    return Nested.from_lengths(x, jagged[-1]) if bags else x


def one_a_row(name: str, x: Ragged, *, single: bool) -> Tensor | Ragged:
    """Plain ids ``[B]`` where every row has one: a faster lookup of the same."""
    lengths = x.lengths
    if single and bool((lengths > 1).any()):
        seen, fix = f"{int(lengths.max())} in one row", "its value_dim is 1; set value_dim: 0 for several"
        fail(DataError, f"sparse feature {name!r}: ids", got=seen, expected="at most one a row", fix=fix)
    return x.values if x.weights is None and bool((lengths == 1).all()) else x


def first_ids(x: Ragged) -> Tensor:
    """The first id of each row, 0 where there is none, ``[B]``."""
    padded = torch.cat([x.values, x.values.new_zeros(1)])
    return torch.where(x.lengths > 0, padded[x.offsets[:-1].clamp(max=len(x.values))], 0)


def dense(name: str, x: Tensor, width: int) -> Tensor:
    """Raw numbers ``[B, width]``; ``[B]`` is taken for a width of 1."""
    x = x.unsqueeze(1) if x.dim() == 1 and width == 1 else x
    if x.dim() != 2 or x.shape[1] != width:
        fail(ShapeError, f"dense feature {name!r}", got=tuple(x.shape), expected=f"[B, {width}]")
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def padded_steps(name: str, jagged: Jagged, width: int) -> Tensor:
    """Raw numbers of histories, ``[B, T, width]``, zero at padded steps; T is the longest of the batch."""
    values, lengths = jagged[:2]
    values = values.unsqueeze(1) if values.dim() == 1 and width == 1 else values
    if values.dim() != 2 or values.shape[1] != width or int(lengths.sum()) != len(values):
        seen = f"values {tuple(values.shape)}, lengths of sum {int(lengths.sum())}"
        fail(ShapeError, f"sequence feature {name!r}", got=seen, expected=f"values [nnz, {width}], lengths [B]")
    values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    index = Ragged.from_lengths(values, lengths)
    steps = int(lengths.max()) if len(lengths) else 0
    rows = index.segments()
    places = rows * steps + torch.arange(len(values), device=rows.device) - index.offsets[rows]
    flat = values.new_zeros(len(lengths) * steps, width).index_copy(0, places, values)
    return flat.reshape(len(lengths), steps, width)


def named(kind: str, given: Mapping[str, object], known: set[str], needed: set[str]) -> None:
    """Raise on names that the config does not have, and on needed ones that are not there."""
    unknown, missing = sorted(set(given) - known), sorted(needed - set(given))
    if unknown:
        fix = "features are named as in feature_configs, those of a sequence <sequence_name>__<feature_name>"
        fail(DataError, f"batch: unknown {kind}", got=unknown, expected=f"among {sorted(known)}", fix=fix)
    if missing:
        fail(DataError, f"batch: missing {kind}", got=f"only {sorted(given)}", expected=f"also {missing}")


def column(kind: str, given: Mapping[str, Tensor] | Tensor, names: list[str]) -> Tensor:
    """The first named column of labels or weights; a tensor is that column itself."""
    if isinstance(given, Tensor):
        x = given
    elif names[0] in given:
        x = given[names[0]]
    else:
        fail(DataError, f"batch: {kind}", got=f"only {sorted(given)}", expected=repr(names[0]))
    x = x.squeeze(1) if x.dim() == 2 and x.shape[1] == 1 else x
    if x.dim() != 1:
        fail(ShapeError, f"batch: {kind} {names[0]!r}", got=tuple(x.shape), expected="[B]")
    return x


def assemble(features: Mapping[str, Tensor | dict[str, Tensor]], rows: Mapping[str, int]) -> TensorDict:
    """One TensorDict ``[B]``, after a look at the number of rows of everything."""
    if len(set(rows.values())) != 1:  # 0 without any feature
        fail(ShapeError, "batch: rows", got=dict(rows), expected="one number of rows of everything")
    b = [next(iter(rows.values()))]
    parts = {k: TensorDict(v, batch_size=b) if isinstance(v, dict) else v for k, v in features.items()}
    return TensorDict(parts, batch_size=b)
