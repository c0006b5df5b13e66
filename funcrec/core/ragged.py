"""Ragged ids: a variable number of (optionally weighted) ids a row, as values and offsets; sums over such segments.

Pooling is written as gather and ``index_add``: ``embedding_bag`` and ``segment_reduce`` have no forward derivative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from funcrec.core.errors import ShapeError, fail


@dataclass(frozen=True)
class Ragged:
    """Row ``b`` holds ``values[offsets[b]:offsets[b + 1]]`` and, if weighted, the same slice of ``weights``.

    Shapes: values ``[nnz]``, offsets ``[B + 1]`` int64 from 0 to nnz, weights ``[nnz]`` or None. Values are ids (int64)
    for lookups, or floats for ragged raw numbers.
    """

    values: Tensor
    offsets: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.offsets.dim() != 1 or self.offsets.numel() < 1 or self.offsets.dtype != torch.int64:
            fail(
                ShapeError,
                "ragged offsets",
                got=f"{tuple(self.offsets.shape)} {self.offsets.dtype}",
                expected="[B + 1] int64, starting at 0",
            )
        if self.weights is not None and self.weights.shape != self.values.shape[:1]:
            fail(
                ShapeError,
                "ragged weights",
                got=tuple(self.weights.shape),
                expected=f"one weight a value, {tuple(self.values.shape[:1])}",
            )

    @staticmethod
    def from_lengths(values: Tensor, lengths: Tensor, weights: Tensor | None = None) -> Ragged:
        """From the number of values in each row, ``[B]``."""
        zero = lengths.new_zeros(1, dtype=torch.int64)
        offsets = torch.cat([zero, lengths.to(torch.int64).cumsum(0)])
        if int(offsets[-1]) != values.shape[0]:
            fail(ShapeError, "ragged lengths", got=f"sum {int(offsets[-1])}", expected=f"{values.shape[0]} values")
        return Ragged(values, offsets, weights)

    @staticmethod
    def from_nested(nested: Tensor, weights: Tensor | None = None) -> Ragged:
        """From torch's nested jagged tensor, ids and optional weights of the same raggedness."""
        offsets: Tensor = nested.offsets()  # type: ignore[attr-defined]  # nested tensors only
        return Ragged(nested.values(), offsets.to(torch.int64), None if weights is None else weights.values())

    def to_nested(self) -> tuple[Tensor, Tensor | None]:
        """The (ids, weights) as torch's nested jagged tensors that share their offsets."""
        make = torch.nested.nested_tensor_from_jagged
        return make(self.values, self.offsets), None if self.weights is None else make(self.weights, self.offsets)

    @property
    def lengths(self) -> Tensor:
        return self.offsets.diff()

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def segments(self) -> Tensor:
        """The row of each value, int64 ``[nnz]``."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(rows, self.lengths, output_size=self.values.shape[0])

    def select(self, rows: Tensor) -> Ragged:
        """The rows with these indices, in this order."""
        lengths = self.lengths[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        total = int(offsets[-1])
        shift = torch.repeat_interleave(self.offsets[rows] - offsets[:-1], lengths, output_size=total)
        index = torch.arange(total, device=rows.device) + shift
        return Ragged(self.values[index], offsets, None if self.weights is None else self.weights[index])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Ragged:
        move = lambda t: t.to(device, non_blocking=non_blocking)  # noqa: E731
        weights = None if self.weights is None else move(self.weights)
        return replace(self, values=move(self.values), offsets=move(self.offsets), weights=weights)


@dataclass(frozen=True)
class Nested:
    """A history whose every step is a bag of ids: row ``b`` holds the bags ``offsets[b]`` to ``offsets[b + 1]``.

    Shapes: ``bags`` one row a step, offsets ``[B + 1]`` int64 from 0 to the number of steps.
    """

    bags: Ragged
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.offsets.dim() != 1 or self.offsets.numel() < 1 or self.offsets.dtype != torch.int64:
            seen = f"{tuple(self.offsets.shape)} {self.offsets.dtype}"
            fail(ShapeError, "nested offsets", got=seen, expected="[B + 1] int64, starting at 0")

    @staticmethod
    def from_lengths(bags: Ragged, lengths: Tensor) -> Nested:
        """From the number of steps in each row, ``[B]``."""
        steps = Ragged.from_lengths(torch.arange(len(bags), device=lengths.device), lengths)
        return Nested(bags, steps.offsets)

    @property
    def values(self) -> Tensor:
        """All ids."""
        return self.bags.values

    @property
    def lengths(self) -> Tensor:
        """Steps of each row, ``[B]``."""
        return self.offsets.diff()

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def steps(self) -> Ragged:
        """The number of its bag for each step: what a :class:`Ragged` of one id a step would look like."""
        return Ragged(torch.arange(len(self.bags), device=self.offsets.device), self.offsets)

    def select(self, rows: Tensor) -> Nested:
        """The rows with these indices, in this order."""
        steps = self.steps().select(rows)
        return Nested(self.bags.select(steps.values), steps.offsets)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Nested:
        return Nested(self.bags.to(device, non_blocking), self.offsets.to(device, non_blocking=non_blocking))


# What a store looks up: by feature name one id a row, ``[B]`` int64, a ragged number of them, or one bag a step.
Ids = Mapping[str, Tensor | Ragged | Nested]


def concat_ids(parts: Sequence[Tensor | Ragged | Nested]) -> Tensor | Ragged | Nested:
    """The rows of one feature in several batches, one batch after the other.

    One id a row among bags becomes a bag of one, and unweighted ids among weighted ones get the weight 1.

    Raises:
        ShapeError: bags of ids a step in some batches only.
    """
    nested = [p for p in parts if isinstance(p, Nested)]
    if nested:
        if len(nested) < len(parts):
            kinds = sorted({type(p).__name__ for p in parts})
            fail(ShapeError, "ids of one feature in several batches", got=kinds, expected="bags of ids a step in all")
        bags = concat_ids([p.bags for p in nested])
        assert isinstance(bags, Ragged)
        return Nested.from_lengths(bags, torch.cat([p.lengths for p in nested]))
    tensors = [p for p in parts if isinstance(p, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    bag = lambda x: Ragged(x, torch.arange(x.shape[0] + 1, device=x.device))  # noqa: E731
    ragged = [bag(p) if isinstance(p, Tensor) else p for p in parts if not isinstance(p, Nested)]
    weights = None
    given = [p.weights for p in ragged if p.weights is not None]
    if given:
        ones = [given[0].new_ones(p.values.shape) for p in ragged]
        weights = torch.cat([one if p.weights is None else p.weights for p, one in zip(ragged, ones, strict=True)])
    values, lengths = torch.cat([p.values for p in ragged]), torch.cat([p.lengths for p in ragged])
    return Ragged.from_lengths(values, lengths, weights)


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """``out[i] = x[index[i]]``; ``[rows, ...], [n] -> [n, ...]``: the adjoint of :func:`segment_sum`.

    Index and sum are written so that inductor compiles forward over reverse right: it takes an addition to zeros
    without a tangent, such as ``index_select`` has behind it, for one in place in memory of a single number (silently
    wrong on a GPU with torch 2.11, an error or a crash with 2.13).
    """
    if x.dim() == 2:
        return F.embedding(index, x)
    return F.embedding(index, x.flatten(1) if x.dim() > 2 else x.unsqueeze(1)).reshape(-1, *x.shape[1:])


def segment_sum(values: Tensor, segments: Tensor, n: int) -> Tensor:
    """``out[s] = Σ_{i: segments[i] = s} values[i]``; ``[nnz, ...] -> [n, ...]``; empty segments give 0.

    Half precision is summed in float32: one by one, a thousand small numbers would stop to count.
    """
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    zeros = wide.new_zeros(n, *values.shape[1:])
    if wide.is_floating_point():
        zeros = zeros + wide[:0].sum(0)  # zeros with a tangent: see rows_at
    return zeros.index_add(0, segments, wide).to(values.dtype)


def segment_mean(values: Tensor, segments: Tensor, n: int, weights: Tensor | None = None) -> Tensor:
    """``Σ w v / Σ w`` of each segment (w = 1 without weights); segments whose weights sum to 0 give 0."""
    if weights is None:
        weights = values.new_ones(values.shape[0])
    total = segment_sum(weights, segments, n)
    weighted = segment_sum(values * weights.reshape(-1, *[1] * (values.dim() - 1)), segments, n)
    scale = torch.where(
        total == 0, torch.zeros_like(total), 1.0 / torch.where(total == 0, torch.ones_like(total), total)
    )
    return weighted * scale.reshape(-1, *[1] * (values.dim() - 1))
