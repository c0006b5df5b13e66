"""Initializers: frozen callables ``(key, shape, dtype) -> Tensor``, hashable so that configs can hold them.

For weights of shape ``[out, in]`` fan_in is ``shape[1]`` and fan_out ``shape[0]``, as in ``torch.nn.init``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from funcrec.core import random

Initializer = Callable[[Tensor, Sequence[int], torch.dtype | None], Tensor]


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


@dataclass(frozen=True)
class Constant:
    """Every entry equal to ``value``."""

    value: float = 0.0

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return torch.full(tuple(shape), self.value, dtype=dtype or torch.get_default_dtype(), device=key.device)


@dataclass(frozen=True)
class Uniform:
    """U(low, high)."""

    low: float
    high: float

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return random.uniform(key, shape, self.low, self.high, dtype)


@dataclass(frozen=True)
class Normal:
    """N(mean, std²)."""

    std: float = 1.0
    mean: float = 0.0

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return random.normal(key, shape, self.mean, self.std, dtype)


@dataclass(frozen=True)
class XavierUniform:
    """U(±√(6 / (fan_in + fan_out))); Glorot & Bengio 2010, eq. 16."""

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        bound = math.sqrt(6.0 / sum(_fans(shape)))
        return random.uniform(key, shape, -bound, bound, dtype)


@dataclass(frozen=True)
class XavierNormal:
    """N(0, 2 / (fan_in + fan_out)); Glorot & Bengio 2010."""

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return random.normal(key, shape, 0.0, math.sqrt(2.0 / sum(_fans(shape))), dtype)


@dataclass(frozen=True)
class KaimingUniform:
    """U(±gain·√(3 / fan_in)) with gain √2 for a ReLU; He et al. 2015, eq. 10."""

    gain: float = math.sqrt(2.0)

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        bound = self.gain * math.sqrt(3.0 / _fans(shape)[0])
        return random.uniform(key, shape, -bound, bound, dtype)


@dataclass(frozen=True)
class RowCountUniform:
    """U(±√(1 / rows)) for an embedding table ``[rows, dim]``: the default of TorchEasyRec's tables."""

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        bound = math.sqrt(1.0 / shape[0])
        return random.uniform(key, shape, -bound, bound, dtype)
