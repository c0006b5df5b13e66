"""The compressed interaction network of xDeepFM: products of fields, component by component, of growing degree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange, reduce
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import Initializer, Uniform
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.kernels import registry

if TYPE_CHECKING:
    from jaxtyping import Float


def init_cin(
    key: Tensor,
    n_fields: int,
    layer_sizes: Sequence[int],
    *,
    weight: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: torch.dtype | None = None,
) -> TensorDict:
    """Parameters of :func:`cin`: ``{"0": {"bias": [H_1], "weight": [H_1, H_0, F]}, "1": …}`` with ``H_0 = F``.

    Args:
        n_fields: the number of fields F.
        layer_sizes: H_1, …, H_K.
        weight, bias_init: initial laws, a weight being drawn as the matrix ``[H_k, H_{k-1} F]``; None for
            U(±1/√(H_{k-1} F)), the default of a convolution with kernel 1.

    Raises:
        ConfigError: no layer, or a size that is not positive.
    """
    sizes = (n_fields, *layer_sizes)
    if len(sizes) < 2 or any(h < 1 for h in sizes):
        seen = (n_fields, tuple(layer_sizes))
        fail(ConfigError, "cin: (n_fields, layer_sizes)", got=seen, expected="positive integers, at least one layer")
    params: dict[str, TensorDict] = {}
    for k, (h, o) in enumerate(pairwise(sizes)):
        name = str(k)
        at = fold_in(key, name)
        bound = 1.0 / math.sqrt(h * n_fields)
        law = Uniform(-bound, bound)
        matrix = (weight or law)(fold_in(at, "weight"), (o, h * n_fields), dtype)
        bias = (bias_init or law)(fold_in(at, "bias"), (o,), dtype)
        params[name] = tree({"bias": bias, "weight": rearrange(matrix, "o (h f) -> o h f", h=h)})
    return tree(params)


def _layer(weight: Tensor, x: Tensor, x_0: Tensor) -> Tensor:
    """``einsum(x, x_0, weight, "b d h, b d f, o h f -> b d o")``, two operands at a time.

    All three orders multiply as often, b d o h f times. They differ in what lies between, b d times h f, o f or o h,
    and that is the memory and much of the time: take the smallest, which leaves the largest of o, h, f out. On a tie
    the weights go first: autograd then needs no second array of that size for the gradient of a product.
    """
    o, h, f = weight.shape
    if o > max(h, f):
        return einsum(einsum(x, x_0, "b d h, b d f -> b d h f"), weight, "b d h f, o h f -> b d o")
    if h >= f:
        return einsum(einsum(x, weight, "b d h, o h f -> b d o f"), x_0, "b d o f, b d f -> b d o")
    return einsum(einsum(x_0, weight, "b d f, o h f -> b d o h"), x, "b d o h, b d h -> b d o")


def _layer_by_op(weight: Tensor, x: Tensor, x_0: Tensor) -> Tensor:
    """The same with components last, ``b h d, b f d, o h f -> b o d``, and with no array between."""
    first = x is x_0
    rows, rows_0, matrix = registry.cast(x, x_0, weight)
    return registry.cin.quadratic(rows, matrix) if first else registry.cin.bilinear(rows, rows_0, matrix)


def cin(params: TensorDict, x: Float[Tensor, "b f d"], *, impl: registry.Impl = "auto") -> Float[Tensor, "b o"]:
    """``x_k[o, d] = Σ_{h,f} W_k[o, h, f] x_{k-1}[h, d] x_0[f, d] + β_k[o]`` from ``x_0 = x``; returns the sums over d.

    No activation, and no layer is split in half: layer k is a polynomial of degree k + 1 in x.

    Args:
        impl: which form runs; see :func:`funcrec.kernels.registry.use`.

    Shape: x ``[b, f, d]``, returns ``[Σ_d x_1; …; Σ_d x_K]``, ``[b, o]`` with o = Σ H_k.

    Raises:
        ShapeError: the number of fields of ``x`` is not F.

    Reference: Lian et al. 2018, xDeepFM, eq. 6 and 8, without the activation.
    """
    n_fields = params["0"]["weight"].shape[2]
    if x.dim() != 3 or x.shape[1] != n_fields:
        fail(ShapeError, "cin: input", got=tuple(x.shape), expected=f"[b, {n_fields}, d]")
    d, pooled = x.shape[2], []
    *layers, last = (params[str(k)] for k in range(len(params.keys())))
    weights = [layer["weight"] for layer in (*layers, last)]
    if registry.use("cin", impl, x, *weights, slower=registry.without_tf32(x)):
        x_0 = x
        for layer in layers:
            x = _layer_by_op(layer["weight"], x, x_0) + rearrange(layer["bias"], "o -> o 1")
            pooled.append(reduce(x, "b o d -> b o", "sum"))
        products = einsum(x, x_0, "b h d, b f d -> b h f")
    else:
        # Components last but one: every contraction below is then one matrix product of b·d rows, without a copy.
        x_0 = x = rearrange(x, "b f d -> b d f").contiguous()
        for layer in layers:
            x = _layer(layer["weight"], x, x_0) + layer["bias"]
            pooled.append(reduce(x, "b d o -> b o", "sum"))
        products = einsum(x, x_0, "b d h, b d f -> b h f")
    # Of the last layer only the sum over d is asked for. It goes through the products first, so this layer costs
    # b h f (d + o) and not b d h f o, and its array is d times smaller.
    pooled.append(einsum(products, last["weight"], "b h f, o h f -> b o") + d * last["bias"])
    return torch.cat(pooled, dim=1)
