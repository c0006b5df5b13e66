"""The linear map, with the weight layout and the default initial law of ``torch.nn.Linear``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import Initializer, Uniform
from funcrec.core.random import fold_in
from funcrec.core.tree import tree

if TYPE_CHECKING:
    from jaxtyping import Float


def init_linear(
    key: Tensor,
    n_in: int,
    n_out: int,
    *,
    bias: bool = True,
    weight: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: torch.dtype | None = None,
) -> TensorDict:
    """Parameters of :func:`linear`.

    Args:
        key: random key.
        n_in, n_out: widths of input and output.
        bias: whether there is a bias.
        weight, bias_init: initial laws; None for U(±1/√n_in), the default of ``torch.nn.Linear``.

    Returns:
        ``{"bias": [n_out], "weight": [n_out, n_in]}``, without ``"bias"`` if ``bias`` is false.

    Raises:
        ConfigError: a width is not positive.
    """
    if n_in < 1 or n_out < 1:
        fail(ConfigError, "linear: widths (n_in, n_out)", got=(n_in, n_out), expected="positive integers")
    default = Uniform(-1.0 / math.sqrt(n_in), 1.0 / math.sqrt(n_in))
    params = {"weight": (weight or default)(fold_in(key, "weight"), (n_out, n_in), dtype)}
    if bias:
        params["bias"] = (bias_init or default)(fold_in(key, "bias"), (n_out,), dtype)
    return tree(params)


def linear(params: TensorDict, x: Float[Tensor, "... n_in"]) -> Float[Tensor, "... n_out"]:
    """``y = x Wᵀ + b``, that is ``einsum(x, W, "... n_in, n_out n_in -> ... n_out") + b``.

    Shape: x ``[..., n_in]``, returns ``[..., n_out]``.

    Raises:
        ShapeError: the last dim of ``x`` is not the one that the weight was made for.
    """
    weight = params["weight"]
    if x.shape[-1] != weight.shape[1]:
        fail(ShapeError, "linear: input", got=f"[..., {x.shape[-1]}]", expected=f"[..., {weight.shape[1]}]")
    # One call, not an einsum and a sum: it fuses the bias, and under autocast it keeps the sum in the low precision.
    return F.linear(x, weight, params.get("bias", None))
