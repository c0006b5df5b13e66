"""AutoDis: a number as a soft choice among learned vectors, a discretization that has derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import einsum
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.random import fold_in, normal
from funcrec.core.tree import tree

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class AutoDis:
    """Config of :func:`autodis`; an embedding of single numbers.

    Attributes:
        num_channels: how many vectors there are to choose from.
        temperature: of the choice; towards 0 it is the largest channel alone, towards ∞ the mean of all.
        keep_prob: factor of the skip connection (the name is TorchEasyRec's: nothing is dropped).
    """

    num_channels: int
    temperature: float = 0.1
    keep_prob: float = 0.8

    def __post_init__(self) -> None:
        if self.num_channels < 1:
            fail(ConfigError, "AutoDis: num_channels", got=self.num_channels, expected="a positive integer")
        if not 0.0 < self.temperature < math.inf:
            fail(ConfigError, "AutoDis: temperature", got=self.temperature, expected="a positive number")
        if not math.isfinite(self.keep_prob):
            fail(ConfigError, "AutoDis: keep_prob", got=self.keep_prob, expected="a finite number")

    def init(self, key: Tensor, width: int, dim: int, dtype: torch.dtype | None = None) -> TensorDict:
        """``{"meta": [c, dim], "proj_m": [c, c], "proj_w": [c]}``: N(0, 1), N(0, 1/c), N(0, 2/(1 + c)).

        Raises:
            ConfigError: more than one number a field.
        """
        if width != 1:
            fix = "give each number a field of its own, or take LinearNumber"
            fail(ConfigError, "AutoDis: width of the field", got=width, expected=1, fix=fix)
        c = self.num_channels

        def drawn(name: str, shape: tuple[int, ...], variance: float) -> Tensor:
            return normal(fold_in(key, name), shape, std=math.sqrt(variance), dtype=dtype)

        return tree(
            {
                "meta": drawn("meta", (c, dim), 1.0),
                "proj_m": drawn("proj_m", (c, c), 1.0 / c),
                "proj_w": drawn("proj_w", (c,), 2.0 / (1 + c)),
            }
        )

    def apply(self, params: TensorDict, x: Tensor) -> Tensor:
        return autodis(params, x, self)


def autodis(params: TensorDict, x: Float[Tensor, "b 1"], config: AutoDis) -> Float[Tensor, "b d"]:
    """``e = Σ_c p_c meta_c`` with ``p = softmax((M h + α h) / τ)`` and ``h = LeakyReLU(x w)``, α the ``keep_prob``.

    The slope of the LeakyReLU is 0.01.

    Shape: x ``[b, 1]``, returns ``[b, d]``.

    Raises:
        ShapeError: more than one number a row.

    Reference: Guo et al. 2021, An Embedding Learning Framework for Numerical Features in CTR Prediction, sec. 3.2.
    """
    if x.dim() != 2 or x.shape[1] != 1:
        fail(ShapeError, "autodis: input", got=tuple(x.shape), expected="[B, 1]")
    h = F.leaky_relu(x * params["proj_w"])
    logits = einsum(h, params["proj_m"], "b j, c j -> b c") + config.keep_prob * h
    p = torch.softmax(logits / config.temperature, dim=-1)
    return einsum(p, params["meta"], "b c, c d -> b d")
