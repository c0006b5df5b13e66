"""The cross network of DCN-V2: a matrix a layer, full or of low rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.init import Initializer
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.layers.linear import init_linear, linear

if TYPE_CHECKING:
    from jaxtyping import Float


def init_cross_v2(
    key: Tensor,
    d: int,
    n_layers: int,
    rank: int | None,
    *,
    weight: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: torch.dtype | None = None,
) -> TensorDict:
    """Parameters of :func:`cross_v2`: ``{"0": layer, "1": …}``.

    Args:
        rank: None for a full matrix, a layer being ``{"w": {"bias": [d], "weight": [d, d]}}``; else a layer is
            ``{"u": {"weight": [rank, d]}, "v": {"bias": [d], "weight": [d, rank]}}``.
        weight, bias_init: initial laws of the linear maps; None for U(±1/√fan_in).

    Raises:
        ConfigError: ``d``, ``n_layers`` or ``rank`` is not positive.
    """
    if d < 1 or n_layers < 1 or (rank is not None and rank < 1):
        fail(ConfigError, "cross_v2: (d, n_layers, rank)", got=(d, n_layers, rank), expected="positive integers")

    def linear_map(layer_key: Tensor, name: str, n_in: int, n_out: int, bias: bool = True) -> TensorDict:
        return init_linear(
            fold_in(layer_key, name), n_in, n_out, bias=bias, weight=weight, bias_init=bias_init, dtype=dtype
        )

    def layer(layer_key: Tensor) -> TensorDict:
        if rank is None:
            return tree({"w": linear_map(layer_key, "w", d, d)})
        u = linear_map(layer_key, "u", d, rank, bias=False)
        return tree({"u": u, "v": linear_map(layer_key, "v", rank, d)})

    return tree({str(i): layer(fold_in(key, str(i))) for i in range(n_layers)})


def cross_v2(params: TensorDict, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """``x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l`` from ``x_0 = x``, with ``W_l = V_l U_l`` where the rank is low.

    Shape: x ``[b, d]``, returns ``[b, d]``.

    Raises:
        ShapeError: the width of ``x`` is not d.

    Reference: Wang et al. 2021, DCN V2: Improved Deep & Cross Network, eq. 1 and 2.
    """
    x_0 = x
    for i in range(len(params.keys())):
        layer = params[str(i)]
        if "w" in layer.keys():
            mapped = linear(layer["w"], x)
        else:
            mapped = linear(layer["v"], linear(layer["u"], x))
        x = x_0 * mapped + x
    return x
