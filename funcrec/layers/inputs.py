"""From looked-up embeddings, raw numbers and histories to the group vectors that a model reads."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.groups import Field, Group, Sequence
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.layers.variational_dropout import init_variational_dropout, variational_dropout

if TYPE_CHECKING:
    from jaxtyping import Float, Int


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


def _raw(group: Group, field: Field, batch: TensorDict, rows: int | None) -> Tensor:
    """``batch["dense"][field]``, ``[rows, field.width]``; any number of rows if None."""
    dense = batch.get("dense", None)
    x = None if dense is None else dense.get(field.name, None)
    if x is None or x.dim() != 2 or x.shape[1] != field.width or (rows is not None and x.shape[0] != rows):
        fail(
            ShapeError,
            f"group {group.name!r}: dense field {field.name!r}",
            got="none" if x is None else tuple(x.shape),
            expected=f"[{'B' if rows is None else rows}, {field.width}]",
            fix='batch["dense"] holds one [B, width] tensor a field',
        )
    return x


def group_vector(
    group: Group, emb: TensorDict, batch: TensorDict, numbers: TensorDict | None = None
) -> Float[Tensor, "b w"]:
    """``[e_1; e_2; …]``: the fields of a group, embedded and dense, concatenated in their listed order.

    Encodings and variational dropout are not in it: :func:`inputs` adds them.

    Args:
        emb: ``emb[group.name]`` is ``[b, n, d]`` if the n embedded fields share the dim d, else ``[b, Σ dims]``.
        batch: ``batch["dense"][field]`` is ``[b, width]`` for each dense field.
        numbers: parameters of the learned number embeddings, by field.

    Returns:
        ``[b, Σ dims of the fields]``.

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
        if not is_dense:
            width = sum(field.dim for field in run)
            parts.append(flat[:, start : start + width])
            start += width
            continue
        for field in run:
            x = _raw(group, field, batch, rows)
            rows = x.shape[0]
            if field.number is not None:
                if numbers is None:
                    fail(ShapeError, f"group {group.name!r}: number embedding of field {field.name!r}", got="no params")
                x = field.number.apply(numbers[field.name], x)
            parts.append(x)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def sequence_keys(
    sequence: Sequence, emb: TensorDict, batch: TensorDict
) -> tuple[Float[Tensor, "b t k"], Int[Tensor, " b"]]:
    """The steps of a history and how many of them are real.

    Returns:
        ``[b, t, key_dim]`` with the key fields in their listed order, and ``[b]``.

    Raises:
        ShapeError: an entry of ``emb[name]``, ``batch["sequence"][field]`` or ``batch["length"][name]`` is missing or
            has another shape than the sequence promises.
    """
    what, parts, at = f"sequence {sequence.name!r}", [], 0
    width = sum(f.dim for f in sequence.embedded)
    keys = emb.get(sequence.name, None)
    if width and (keys is None or keys.dim() != 3 or keys.shape[2] != width):
        seen = "none" if keys is None else tuple(keys.shape)
        fail(ShapeError, f"{what}: embedding of its keys", got=seen, expected=f"[B, T, {width}]")
    steps: tuple[int, ...] | None = None if keys is None else tuple(keys.shape[:2])
    raw = batch.get("sequence", None)
    for field in sequence.keys:
        if not field.dense:
            assert keys is not None
            parts.append(keys[:, :, at : at + field.dim])
            at += field.dim
            continue
        x = None if raw is None else raw.get(field.name, None)
        steps = tuple(x.shape[:2]) if steps is None and x is not None else steps
        if x is None or x.shape != (*(steps or ()), field.dim):
            b_t = "B, T" if steps is None else ", ".join(map(str, steps))
            seen = "none" if x is None else tuple(x.shape)
            fail(ShapeError, f"{what}: raw numbers {field.name!r}", got=seen, expected=f"[{b_t}, {field.dim}]")
        parts.append(x)
    lengths = batch.get("length", None)
    counted = None if lengths is None else lengths.get(sequence.name, None)
    if counted is None or steps is None or counted.shape != steps[:1]:
        seen = "none" if counted is None else tuple(counted.shape)
        fix = 'batch["length"] holds the number of real steps of each sequence, [B] int64'
        fail(ShapeError, f"{what}: lengths", got=seen, expected=f"[{steps[0] if steps else 'B'}]", fix=fix)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2), counted


def sequence_query(sequence: Sequence, emb: TensorDict, batch: TensorDict, numbers: TensorDict | None = None) -> Tensor:
    """The query ``[b, query_dim]`` of a sequence; ``[b, 0]`` without one."""
    group = sequence.query_group
    if group is None:
        lengths = batch["length"][sequence.name]
        dtype = emb[sequence.name].dtype if sequence.embedded else batch["sequence"][sequence.keys[0].name].dtype
        return torch.zeros(*lengths.shape, 0, dtype=dtype, device=lengths.device)
    return group_vector(group, emb, batch, numbers)


def init_inputs(
    key: Tensor, groups: SequenceOf[Group], dtype: torch.dtype | None = None
) -> tuple[TensorDict, TensorDict]:
    """Parameters and state of :func:`inputs`; both empty where the groups are lookups and raw numbers only.

    Returns:
        Params ``{"encoders": {group: {"0": …}}, "numbers": {field: …}, "variational": {group: …}}``, each entry only
        where there is something to hold, and state ``{"encoders": {group: {"0": …}}}``.

    Raises:
        ConfigError: one field with two different number embeddings.
    """
    seen: dict[str, Field] = {}
    for f in (f for g in groups for f in (*g.fields, *(q for s in g.sequences for q in s.query)) if f.number):
        if seen.setdefault(f.name, f) != f:
            fail(ConfigError, f"field {f.name!r}: number embedding", got=[seen[f.name], f], expected="one of them")
    numbers = {
        f.name: f.number.init(fold_in(key, f"number {f.name}"), f.width, f.dim, dtype)
        for f in seen.values()
        if f.number
    }
    encoders: dict[str, dict] = {}
    kept: dict[str, dict] = {}
    for group in groups:
        for i, (sequence, encoder) in enumerate((e.sequence, e.encoder) for e in group.encoded):
            at = fold_in(fold_in(key, f"encoders {group.name}"), str(i))
            params, state = encoder.init(at, sequence.query_dim, sequence.key_dim, dtype)
            encoders.setdefault(group.name, {})[str(i)] = params
            kept.setdefault(group.name, {})[str(i)] = state
    variational = {
        g.name: init_variational_dropout(fold_in(key, f"variational {g.name}"), len(g.dims), dtype=dtype)
        for g in groups
        if g.variational
    }
    parts: dict[str, dict] = {"encoders": encoders, "numbers": numbers, "variational": variational}
    return tree({name: part for name, part in parts.items() if part}), tree({"encoders": kept} if kept else {})


def inputs(
    params: TensorDict | None,
    groups: SequenceOf[Group],
    emb: TensorDict,
    batch: TensorDict,
    state: TensorDict,
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> tuple[dict[str, Float[Tensor, "b _"]], TensorDict]:
    """The vector ``[field_1; …; field_n; encoding_1; …]`` of each group, ``[b, group.width]``, and the new state.

    A ``variational`` group has each entry's slice scaled by its keep rate (see ``variational_dropout``).

    Raises:
        ShapeError: an entry of ``emb`` or ``batch`` is missing or has another shape than its group promises.
    """
    part = lambda name: None if params is None else params.get(name, None)  # noqa: E731
    numbers, encoders, variational = part("numbers"), part("encoders"), part("variational")
    out: dict[str, Tensor] = {}
    moved: dict[str, dict] = {}
    for group in groups:
        parts = [group_vector(group, emb, batch, numbers)] if group.fields else []
        for i, encoded in enumerate(group.encoded):
            keys, lengths = sequence_keys(encoded.sequence, emb, batch)
            query = sequence_query(encoded.sequence, emb, batch, numbers)
            name = str(i)
            own = TensorDict({}, []) if encoders is None else encoders[group.name].get(name, TensorDict({}, []))
            at = child(child(key, group.name), name)
            held = state["encoders"][group.name][name]
            y, held = encoded.encoder.apply(own, query, keys, lengths, held, key=at, train=train)
            moved.setdefault(group.name, {})[name] = held
            parts.append(y)
        vector = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if group.variational:
            assert variational is not None
            widths = list(group.dims.values())
            at = child(key, f"variational {group.name}")
            vector = variational_dropout(variational[group.name], vector, widths, key=at, train=train)
        out[group.name] = vector
    return out, tree({"encoders": moved}) if moved else state


def stacked(group: Group, vector: Float[Tensor, "b nd"]) -> Float[Tensor, "b n d"]:
    """A group vector as its n entries of one dim d side by side, for layers that look at pairs of them.

    Raises:
        ConfigError: raw numbers, or more than one dim, in the group.
    """
    n, _ = group.require_stacked("stacked")
    return rearrange(vector, "b (n d) -> b n d", n=n)
