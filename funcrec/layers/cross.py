"""The cross network of DCN: feature crosses of bounded degree with one vector of weights a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange, reduce
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import XavierUniform
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.kernels import registry

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


def cross(params: TensorDict, x: Float[Tensor, "b d"], *, impl: registry.Impl = "auto") -> Float[Tensor, "b d"]:
    """``x_{l+1} = x_0 (x_l · w_l) + b_l + x_l``, from ``x_0 = x``: a polynomial of degree L + 1 in x after L layers.

    No ``x_l`` is formed: ``x_l = (1 + e_l) x + s_l``, where ``s_l = Σ_{k<l} b_k`` is the same for all rows and e_l one
    number a row, ``e_{l+1} = e_l + (1 + e_l) (x · w_l) + s_l · w_l``, ``e_0 = 0``: one matrix product for all layers.

    Args:
        impl: which form runs; see :func:`funcrec.kernels.registry.use`.

    Shape: x ``[b, d]``, returns ``[b, d]``.

    Raises:
        ShapeError: x is not ``[b, d]`` with the d of the parameters.

    Reference: Wang et al. 2017, Deep & Cross Network for Ad Click Predictions, eq. 3.
    """
    layers = [params[str(i)] for i in range(len(params.keys()))]
    weight, bias = (torch.stack([layer[name] for layer in layers]) for name in ("weight", "bias"))
    if x.dim() != 2 or x.shape[1:] != weight.shape[1:]:
        fail(ShapeError, "cross: input", got=tuple(x.shape), expected=f"[b, {weight.shape[1]}]")
    if registry.use("cross", impl, x, weight, bias, unsupported=registry.cross.unsupported(x, len(layers))):
        wide = torch.promote_types(x.dtype, bias.dtype)  # they differ under autocast only, which the op does not see
        return registry.cross.cross(x.to(wide), weight.to(wide), bias.to(wide))
    products = einsum(weight, x, "l d, b d -> l b").to(x.dtype)  # under autocast the recurrence stays as wide as x
    sums = torch.cumsum(bias, 0)
    moves = reduce(sums[:-1] * weight[1:], "l d -> l", "sum")
    e = products[0]  # not a_l = 1 + e_l: a low precision would keep little of a small e
    for i in range(1, len(layers)):
        e = e + (1 + e) * products[i] + moves[i - 1]
    return x + (rearrange(e, "b -> b 1") * x + sums[-1])
