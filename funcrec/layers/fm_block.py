"""The factorization machine block of WuKong: dot products of fields, mixed by an MLP into new fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import Initializer
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.kernels import registry
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.linear_compress import init_linear_compress, linear_compress
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp
from funcrec.layers.norm import init_layer_norm, layer_norm

if TYPE_CHECKING:
    from jaxtyping import Float


def init_fm_block(
    key: Tensor,
    dim: int,
    n_in: int,
    n_out: int,
    k: int,
    config: MLPConfig,
    *,
    norm: bool = True,
    compress: Initializer | None = None,
    weight: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[TensorDict, TensorDict]:
    """Parameters and state of :func:`fm_block`.

    Args:
        dim: embedding dim of the fields.
        n_in, n_out: numbers of fields before and after.
        k: number of combinations of the fields that each field is multiplied with.
        config: the MLP over the products, its last layer activated too.
        norm: whether the products are layer-normalized before the MLP.
        compress, weight, bias_init: initial laws of the combinations and of the output layer; None for U(±√(6 / k))
            and U(±1/√fan_in).

    Returns:
        Params ``{"compress": {"weight": [n_in, k]}, "mlp", "norm": [n_in k], "out": linear to n_out dim}``, ``"norm"``
        only if there is one, and state ``{"mlp": …}``.

    Raises:
        ConfigError: a size is not positive.
    """
    if min(dim, n_in, n_out, k) < 1:
        fail(ConfigError, "fm_block: (dim, n_in, n_out, k)", got=(dim, n_in, n_out, k), expected="positive integers")
    mlp_params, mlp_state = init_mlp(fold_in(key, "mlp"), n_in * k, config, dtype)
    params = {
        "compress": init_linear_compress(fold_in(key, "compress"), n_in, k, weight=compress, dtype=dtype),
        "mlp": mlp_params,
        "out": init_linear(
            fold_in(key, "out"), config.output_dim, n_out * dim, weight=weight, bias_init=bias_init, dtype=dtype
        ),
    }
    if norm:
        params["norm"] = init_layer_norm(n_in * k, dtype=dtype, device=key.device)
    return tree(params), tree({"mlp": mlp_state})


def _products(compress: TensorDict, x: Tensor, compressed: Tensor | None, impl: registry.Impl) -> Tensor:
    """``X (Xᵀ W)``, ``[b, n, k]``."""
    if compressed is None:
        weight = compress["weight"]
        why_not = registry.wukong.unsupported(x, weight)
        slower = registry.without_tf32(x) or registry.wukong.slower(x)
        if registry.use("fm_block", impl, x, weight, unsupported=why_not, slower=slower):
            fields, matrix = registry.cast(x, weight)
            return registry.wukong.products(fields, matrix)
        compressed = linear_compress(compress, x)
    expected = (x.shape[0], compress["weight"].shape[1], x.shape[2])
    if compressed.shape != expected:
        fail(ShapeError, "fm_block: compressed", got=tuple(compressed.shape), expected=expected)
    return einsum(x, compressed, "b n d, b k d -> b n k")


def fm_block(
    params: TensorDict,
    x: Float[Tensor, "b n d"],
    state: TensorDict,
    config: MLPConfig,
    n_out: int,
    *,
    compressed: Float[Tensor, "b k d"] | None = None,
    key: Tensor | None = None,
    train: bool = False,
    impl: registry.Impl = "auto",
) -> tuple[Float[Tensor, "b m d"], TensorDict]:
    """``Linear(MLP(LN(flat(X Xᵀ W))))`` as m fields, with ``X Xᵀ W`` computed as ``X (Xᵀ W)``: never n × n.

    Args:
        n_out: the number of fields m that the parameters were made for; their dim follows from it.
        compressed: ``Wᵀ X``, where the caller has it already from a larger product.
        impl: which form of the products runs; see :func:`funcrec.kernels.registry.use`.

    Shape: x ``[b, n, d]``, returns ``[b, m, d]``, and the new state.

    Raises:
        ShapeError: another number or dim of fields than the parameters were made for.
        KeyMissingError: training with dropout in the MLP and no ``key``.

    Reference: Zhang et al. 2024, Wukong, sec. 3.3 and 3.6; the normalization before the MLP as in TorchEasyRec.
    """
    n_in = params["compress"]["weight"].shape[0]
    out = params["out"]["weight"].shape[0]
    if x.dim() != 3 or x.shape[1] != n_in or n_out * x.shape[2] != out:
        seen = f"{tuple(x.shape)} with n_out={n_out}"
        fail(ShapeError, "fm_block: input", got=seen, expected=f"[b, {n_in}, d] with n_out d = {out}")
    products = rearrange(_products(params["compress"], x, compressed, impl), "b n k -> b (n k)")
    if "norm" in params.keys():
        products = layer_norm(params["norm"], products)
    hidden, moved = mlp(params["mlp"], products, state["mlp"], config, key=child(key, "mlp"), train=train)
    y = rearrange(linear(params["out"], hidden), "b (m d) -> b m d", m=n_out)
    return y, tree({"mlp": moved})
