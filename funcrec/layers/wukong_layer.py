"""One layer of WuKong: factorization machine and linear compression side by side, residual, layer normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import Initializer
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.kernels import registry
from funcrec.layers.fm_block import fm_block, init_fm_block
from funcrec.layers.linear_compress import init_linear_compress
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.norm import init_layer_norm, layer_norm

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class WuKongLayerConfig:
    """Sizes and options of a WuKong layer.

    Args:
        lcb, fmb: numbers of fields that the linear compress and the factorization machine block make.
        k: number of combinations of the fields that the factorization machine multiplies each field with.
        mlp: the MLP of the factorization machine block.
        norm: both layer normalizations, of the products and of the output. Without them, and with linear MLPs, layer l
            is a polynomial of degree 2^l in the first input.
        compress: initial law of the matrices over fields; None for U(±√(6 / outputs)).
        weight, bias_init: initial laws of the factorization machine's output layer; None for U(±1/√fan_in).

    Raises:
        ConfigError: a number is not positive.
    """

    lcb: int
    fmb: int
    k: int = 16
    mlp: MLPConfig
    norm: bool = True
    compress: Initializer | None = None
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        if min(self.lcb, self.fmb, self.k) < 1:
            fail(ConfigError, "WuKong layer: (lcb, fmb, k)", got=(self.lcb, self.fmb, self.k), expected="positive")

    @property
    def output_fields(self) -> int:
        return self.lcb + self.fmb


def init_wukong_layer(
    key: Tensor, dim: int, n_in: int, config: WuKongLayerConfig, *, dtype: torch.dtype | None = None
) -> tuple[TensorDict, TensorDict]:
    """Parameters and state of :func:`wukong_layer` over ``n_in`` fields of this dim.

    Returns:
        Params ``{"fmb", "lcb": {"weight": [n_in, lcb]}, "norm": [dim], "residual": {"weight": [n_in, lcb + fmb]}}``,
        ``"norm"`` only if there is one, ``"residual"`` only if the number of fields changes; and state ``{"fmb": …}``.
    """
    c, n_out = config, config.output_fields
    fmb, state = init_fm_block(
        fold_in(key, "fmb"),
        dim,
        n_in,
        c.fmb,
        c.k,
        c.mlp,
        norm=c.norm,
        compress=c.compress,
        weight=c.weight,
        bias_init=c.bias_init,
        dtype=dtype,
    )
    params = {
        "fmb": fmb,
        "lcb": init_linear_compress(fold_in(key, "lcb"), n_in, c.lcb, weight=c.compress, dtype=dtype),
    }
    if n_in != n_out:
        at = fold_in(key, "residual")
        params["residual"] = init_linear_compress(at, n_in, n_out, weight=c.compress, dtype=dtype)
    if c.norm:
        params["norm"] = init_layer_norm(dim, dtype=dtype, device=key.device)
    return tree(params), tree({"fmb": state})


def wukong_layer(
    params: TensorDict,
    x: Float[Tensor, "b n d"],
    state: TensorDict,
    config: WuKongLayerConfig,
    *,
    key: Tensor | None = None,
    train: bool = False,
    impl: registry.Impl = "auto",
) -> tuple[Float[Tensor, "b m d"], TensorDict]:
    """``LN([FMB(X); LCB(X)] + R(X))``, FMB first on the field axis; R a matrix over fields where their number changes.

    Args:
        impl: which form runs; see :func:`funcrec.kernels.registry.use`.

    Shape: x ``[b, n, d]``, returns ``[b, m, d]`` with m = fmb + lcb, and the new state.

    Raises:
        ShapeError: another number or dim of fields than the parameters were made for.
        KeyMissingError: training with dropout in the MLP and no ``key``.

    Reference: Zhang et al. 2024, Wukong, sec. 3.5, eq. 3-5.
    """
    compress, lcb = params["fmb"]["compress"]["weight"], params["lcb"]["weight"]
    residual, norm = params.get("residual", None), params.get("norm", None)
    n = compress.shape[0]
    if x.dim() != 3 or x.shape[1] != n:
        fail(ShapeError, "wukong_layer: input", got=tuple(x.shape), expected=f"[b, {n}, d]")
    at = child(key, "fmb")
    matrix = None if residual is None else residual["weight"]
    why_not = registry.wukong.unsupported_layer(x, compress, config.output_fields, matrix)
    why_not = "no normalization" if norm is None else why_not
    slower = registry.without_tf32(x) or registry.wukong.slower(x)
    if registry.use("wukong_layer", impl, x, compress, lcb, unsupported=why_not, slower=slower):
        fmb, moved = fm_block(
            params["fmb"], x, state["fmb"], config.mlp, config.fmb, key=at, train=train, impl="triton"
        )
        y = registry.wukong.mix(*registry.cast(x, fmb, lcb, matrix, norm["weight"], norm["bias"]))
        return y, tree({"fmb": moved})
    # The compression of the FMB, the LCB and the residual all mix the fields of X: one product reads it once.
    matrices = [compress, lcb] if matrix is None else [compress, lcb, matrix]
    mixed = einsum(x, torch.cat(matrices, dim=1), "b n d, n m -> b m d")
    compressed, lcb_fields, *rest = mixed.split([m.shape[1] for m in matrices], dim=1)
    fmb, moved = fm_block(
        params["fmb"], x, state["fmb"], config.mlp, config.fmb, compressed=compressed, key=at, train=train
    )
    y = torch.cat([fmb, lcb_fields], dim=1) + (rest[0] if rest else x)
    return y if norm is None else layer_norm(norm, y), tree({"fmb": moved})
