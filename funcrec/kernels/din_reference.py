"""The einops form of the ops of :mod:`funcrec.kernels.din`: the truth, and what runs on a CPU and under ``vmap``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from funcrec.core.ragged import rows_at, segment_sum

# By name: the activation, and its derivative in terms of its value.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (lambda x: x, torch.ones_like),
    "relu": (F.relu, lambda y: (y > 0).to(y.dtype)),
    "sigmoid": (torch.sigmoid, lambda y: y * (1 - y)),
}


class _Steps(NamedTuple):
    """What all steps have, one row each: ``n`` rows, of which ``real`` belong to samples."""

    sample: Tensor  # [n] int64
    real: Tensor  # [n, 1] bool
    key: Tensor  # [n, d], 0 where not real
    query: Tensor  # [n, d]
    first: Tensor  # [n, h1]
    second: Tensor  # [n, h2]
    weight: Tensor  # [n, 1], 0 where not real


def _owners(starts: Tensor, lengths: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The sample of each row, and whether the row is one of its steps; shapes do not depend on the numbers."""
    # Counting starts, not searching them: searchsorted has no rule for vmap. Starts at the very end go to a row more.
    ones = torch.ones_like(starts)
    sample = starts.new_zeros(rows + 1).index_add(0, starts, ones).cumsum(0)[:rows] - 1
    since = torch.arange(rows, device=starts.device) - starts[sample.clamp(min=0)]
    real = (sample >= 0) & (since < lengths[sample.clamp(min=0)])
    return sample.clamp(min=0), real


def _softmax(scores: Tensor, sample: Tensor, real: Tensor, n: int) -> Tensor:
    """Over the real steps of each sample."""
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    # Any shift of a sample's scores leaves its weights alone, so the largest needs no derivative.
    masked = torch.where(real, wide, torch.finfo(wide.dtype).min).detach()
    largest = masked.new_zeros(n).scatter_reduce(0, sample, masked, "amax", include_self=False)
    exponentials = torch.where(real, torch.exp(torch.where(real, wide - largest[sample], 0.0)), 0.0)
    total = segment_sum(exponentials, sample, n)
    return torch.where(real, exponentials / torch.where(real, rows_at(total, sample), 1.0), 0.0).to(scores.dtype)


def _forward(
    a: Tensor, q: Tensor, keys: Tensor, starts: Tensor, lengths: Tensor, by_key: Tensor, by_product: Tensor,
    w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor, activation: str, softmax: bool,
) -> _Steps:  # fmt: skip
    f, _ = ACTIVATIONS[activation]
    sample, real = _owners(starts, lengths, keys.shape[0])
    column = rearrange(real, "n -> n 1")
    key, query = torch.where(column, keys, 0.0), rows_at(q, sample)
    mapped = rows_at(a, sample) + F.linear(key, by_key) + F.linear(query * key, by_product)
    first = f(mapped)
    second = f(F.linear(first, w2, b2))
    # A softmax does not see a number that all scores share: with this zero, its gradient is 0 to the last bit.
    scores = einsum(second, w3, "n h, h -> n") + b3 * (not softmax)
    weight = _softmax(scores, sample, real, a.shape[0]) if softmax else torch.where(real, scores, 0.0)
    return _Steps(sample, column, key, query, first, second, rearrange(weight, "n -> n 1"))


def din(
    a: Tensor, q: Tensor, keys: Tensor, starts: Tensor, lengths: Tensor, by_key: Tensor, by_product: Tensor,
    w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor, activation: str, softmax: bool,
) -> Tensor:  # fmt: skip
    if a.shape[0] == 0:  # rows without a sample have no owner to point at
        return q * 1
    s = _forward(a, q, keys, starts, lengths, by_key, by_product, w2, b2, w3, b3, activation, softmax)
    return segment_sum(s.weight * s.key, s.sample, a.shape[0])


def din_vjp(
    c: Tensor, a: Tensor, q: Tensor, keys: Tensor, starts: Tensor, lengths: Tensor, by_key: Tensor,
    by_product: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor, activation: str, softmax: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of a, q, keys, by_key, by_product, w2, b2, w3 and b3."""
    if a.shape[0] == 0:
        return tuple(t * 0 for t in (a, q, torch.zeros_like(keys), by_key, by_product, w2, b2, w3, b3))
    s = _forward(a, q, keys, starts, lengths, by_key, by_product, w2, b2, w3, b3, activation, softmax)
    _, slope = ACTIVATIONS[activation]
    n = a.shape[0]
    c_step = rows_at(c, s.sample)
    d_weight = einsum(c_step, s.key, "n d, n d -> n")
    if softmax:
        weight = rearrange(s.weight, "n 1 -> n")
        d_score = weight * (d_weight - rows_at(segment_sum(weight * d_weight, s.sample, n), s.sample))
    else:
        d_score = torch.where(rearrange(s.real, "n 1 -> n"), d_weight, 0.0)
    d_second = einsum(d_score, w3, "n, h -> n h") * slope(s.second)
    d_first = einsum(d_second, w2, "n h, h g -> n g") * slope(s.first)
    d_product = einsum(d_first, by_product, "n g, g d -> n d")
    d_key = s.weight * c_step + einsum(d_first, by_key, "n g, g d -> n d") + s.query * d_product
    return (
        segment_sum(d_first, s.sample, n),
        segment_sum(s.key * d_product, s.sample, n),
        torch.where(s.real, d_key, 0.0),
        einsum(d_first, s.key, "n g, n d -> g d"),
        einsum(d_first, s.query * s.key, "n g, n d -> g d"),
        einsum(d_second, s.first, "n h, n g -> h g"),
        d_second.sum(0),
        einsum(d_score, s.second, "n, n h -> h"),
        (d_score.sum() * (not softmax)).reshape(b3.shape),
    )
