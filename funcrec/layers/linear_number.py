"""Raw numbers as a learned multiple of a vector, one a number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ShapeError, fail
from funcrec.core.random import fold_in, normal
from funcrec.core.tree import tree

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class LinearNumber:
    """Config of :func:`linear_number`, which TorchEasyRec calls the MLP embedding of raw features."""

    def init(self, key: Tensor, width: int, dim: int, dtype: torch.dtype | None = None) -> TensorDict:
        """``{"weight": [width, dim]}``, N(0, 2/(width + dim))."""
        std = math.sqrt(2.0 / (width + dim))
        return tree({"weight": normal(fold_in(key, "weight"), (width, dim), std=std, dtype=dtype)})

    def apply(self, params: TensorDict, x: Tensor) -> Tensor:
        return linear_number(params, x)


def linear_number(params: TensorDict, x: Float[Tensor, "b v"]) -> Float[Tensor, "b d"]:
    """``e = x W``, no bias: a number 0 is the vector 0.

    Shape: x ``[b, v]``, returns ``[b, d]``.

    Raises:
        ShapeError: another number of raw values.

    Reference: TorchEasyRec's ``MLPEmbedding``, a linear map without bias.
    """
    if x.shape[-1] != params["weight"].shape[0]:
        fail(ShapeError, "linear_number: input", got=tuple(x.shape), expected=f"[B, {params['weight'].shape[0]}]")
    return einsum(x, params["weight"], "b v, v d -> b d")
