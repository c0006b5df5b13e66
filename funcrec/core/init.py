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
class TruncatedNormal:
    """N(mean, std²) given that it falls into [low, high], both absolute numbers as in ``torch.nn.init``."""

    std: float = 1.0
    mean: float = 0.0
    low: float = -2.0
    high: float = 2.0

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        # By the inverse of the distribution function, in float64: float32 has no number left in the tails.
        a, b = (0.5 + 0.5 * math.erf((x - self.mean) / (self.std * math.sqrt(2.0))) for x in (self.low, self.high))
        p = random.uniform(key, shape, a, b, torch.float64)
        x = self.mean + self.std * math.sqrt(2.0) * torch.erfinv(2.0 * p - 1.0)
        return x.clamp(self.low, self.high).to(dtype or torch.get_default_dtype())


@dataclass(frozen=True)
class XavierUniform:
    """U(±gain·√(6 / (fan_in + fan_out))); Glorot & Bengio 2010, eq. 16."""

    gain: float = 1.0

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        bound = self.gain * math.sqrt(6.0 / sum(_fans(shape)))
        return random.uniform(key, shape, -bound, bound, dtype)


@dataclass(frozen=True)
class XavierNormal:
    """N(0, gain² · 2 / (fan_in + fan_out)); Glorot & Bengio 2010."""

    gain: float = 1.0

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return random.normal(key, shape, 0.0, self.gain * math.sqrt(2.0 / sum(_fans(shape))), dtype)


@dataclass(frozen=True)
class KaimingUniform:
    """U(±gain·√(3 / fan)) with gain √2 for a ReLU; fan_in, or fan_out if ``fan_out``; He et al. 2015, eq. 10."""

    gain: float = math.sqrt(2.0)
    fan_out: bool = False

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        bound = self.gain * math.sqrt(3.0 / _fans(shape)[self.fan_out])
        return random.uniform(key, shape, -bound, bound, dtype)


@dataclass(frozen=True)
class KaimingNormal:
    """N(0, gain² / fan) with gain √2 for a ReLU; fan_in, or fan_out if ``fan_out``; He et al. 2015, eq. 10."""

    gain: float = math.sqrt(2.0)
    fan_out: bool = False

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return random.normal(key, shape, 0.0, self.gain / math.sqrt(_fans(shape)[self.fan_out]), dtype)


@dataclass(frozen=True)
class RowCountUniform:
    """U(±√(1 / rows)) for an embedding table ``[rows, dim]``: the default of TorchEasyRec's tables."""

    def __call__(self, key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        bound = math.sqrt(1.0 / shape[0])
        return random.uniform(key, shape, -bound, bound, dtype)
