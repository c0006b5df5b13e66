"""The cross network of DCN: feature crosses of bounded degree with one vector of weights a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import XavierUniform
from funcrec.core.random import fold_in
from funcrec.core.tree import tree

if TYPE_CHECKING:
    from jaxtyping import Float


def init_cross(key: Tensor, d: int, n_layers: int, *, dtype: torch.dtype | None = None) -> TensorDict:
    """Parameters of :func:`cross`: ``{"0": {"bias": [d], "weight": [d]}, "1": …}``.

    Weights are Xavier-uniform on ``[1, d]``, U(±√(6 / (d + 1))), biases 0.

    Raises:
        ConfigError: ``d`` or ``n_layers`` is not positive.
    """
    if d < 1 or n_layers < 1:
        fail(ConfigError, "cross: (d, n_layers)", got=(d, n_layers), expected="positive integers")
    law = XavierUniform()

    def layer(layer_key: Tensor) -> TensorDict:
        weight = rearrange(law(layer_key, (1, d), dtype), "1 d -> d")
        return tree({"bias": torch.zeros_like(weight), "weight": weight})

    return tree({str(i): layer(fold_in(key, str(i))) for i in range(n_layers)})


def cross(params: TensorDict, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """``x_{l+1} = x_0 (x_l · w_l) + b_l + x_l``, from ``x_0 = x``: a polynomial of degree L + 1 in x after L layers.

    Shape: x ``[b, d]``, returns ``[b, d]``.

    Raises:
        ShapeError: the width of ``x`` is not d.

    Reference: Wang et al. 2017, Deep & Cross Network for Ad Click Predictions, eq. 3.
    """
    x_0 = x
    for i in range(len(params.keys())):
        layer = params[str(i)]
        if x.shape[-1:] != layer["weight"].shape:
            fail(ShapeError, "cross: input", got=tuple(x.shape), expected=f"[b, {layer['weight'].shape[0]}]")
        dots = einsum(x, layer["weight"], "b d, d -> b")
        x = x_0 * rearrange(dots, "b -> b 1") + layer["bias"] + x
    return x
