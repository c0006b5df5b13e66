"""From looked-up embeddings and raw numbers to the vector, or the stack of fields, that a model reads."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ShapeError, fail
from funcrec.core.groups import Field, Group

if TYPE_CHECKING:
    from jaxtyping import Float


def _embedded(group: Group, emb: TensorDict) -> Tensor:
    """``emb[group.name]``, of the shape that the group promises."""
    x = emb.get(group.name, None)
    expected = group.embedded_shape
    if x is None or tuple(x.shape[1:]) != expected:
        fail(
            ShapeError,
            f"group {group.name!r}: embedding of fields {[f.name for f in group.embedded]}",
            got="none" if x is None else tuple(x.shape),
            expected=f"[B, {', '.join(map(str, expected))}]",
            fix=f"emb has {sorted(emb.keys())}; fields of equal dims are stacked, of others concatenated",
        )
    return x


def _dense(group: Group, field: Field, batch: TensorDict, rows: int | None) -> Tensor:
    """``batch["dense"][field]``, ``[rows, field.dim]``; any number of rows if None."""
    dense = batch.get("dense", None)
    x = None if dense is None else dense.get(field.name, None)
    if x is None or x.dim() != 2 or x.shape[1] != field.dim or (rows is not None and x.shape[0] != rows):
        fail(
            ShapeError,
            f"group {group.name!r}: dense field {field.name!r}",
            got="none" if x is None else tuple(x.shape),
            expected=f"[{'B' if rows is None else rows}, {field.dim}]",
            fix='batch["dense"] holds one [B, width] tensor a field',
        )
    return x


def group_vector(group: Group, emb: TensorDict, batch: TensorDict) -> Float[Tensor, "b w"]:
    """``[e_1; e_2; …]``: the fields of a group, embedded and dense, concatenated in their listed order.

    Args:
        emb: ``emb[group.name]`` is ``[b, n, d]`` if the n embedded fields share the dim d, else ``[b, Σ dims]``.
        batch: ``batch["dense"][field]`` is ``[b, width]`` for each dense field.

    Returns:
        ``[b, group.width]``.

    Raises:
        ShapeError: an entry is missing or has another shape than the group promises.
    """
    rows: int | None = None
    if group.embedded:
        flat = rearrange(_embedded(group, emb), "b ... -> b (...)")
        rows = flat.shape[0]
    parts: list[Tensor] = []
    start = 0
    # One slice a run of embedded fields, which are adjacent in flat: usually all of it.
    for is_dense, run in groupby(group.fields, key=lambda field: field.dense):
        if is_dense:
            for field in run:
                parts.append(_dense(group, field, batch, rows))
                rows = parts[-1].shape[0]
        else:
            width = sum(field.dim for field in run)
            parts.append(flat[:, start : start + width])
            start += width
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def group_stack(group: Group, emb: TensorDict) -> Float[Tensor, "b n d"]:
    """The fields of a group side by side, for layers that look at pairs of them.

    Returns:
        ``[b, n, d]``: n embedded fields of dim d.

    Raises:
        ConfigError: the group has dense fields or more than one dim.
        ShapeError: ``emb[group.name]`` is missing or not ``[b, n, d]``.
    """
    group.require_stacked("group_stack")
    return _embedded(group, emb)
