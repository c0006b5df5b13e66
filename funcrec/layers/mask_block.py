"""MaskBlock: a feed-forward layer whose input is gated by a mask that the instance itself generates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import Initializer
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.layers.dropout import check_rate, dropout
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.norm import init_layer_norm, layer_norm

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class MaskBlockConfig:
    """Sizes and options of a MaskBlock.

    TorchEasyRec ignores ``aggregation_dim`` unless ``reduction_ratio`` is 0; here each means what it says, giving both
    is an error, and a ratio of 0 is the same as none beside an ``aggregation_dim``.

    Args:
        hidden_dim: output width.
        reduction_ratio: width of the mask generator's hidden layer as a multiple of the block's *input*, truncated to
            an integer; 1 when neither this nor ``aggregation_dim`` is given.
        aggregation_dim: that width itself.
        bias: whether the hidden linear map has a bias.
        norm: whether a layer normalization follows it.
        dropout: rate on the output.
        weight, bias_init: initial laws of the three linear maps; None for U(±1/√fan_in).

    Raises:
        ConfigError: an option, or a combination of them, that describes no block.
    """

    hidden_dim: int
    reduction_ratio: float | None = None
    aggregation_dim: int | None = None
    bias: bool = True
    norm: bool = True
    dropout: float = 0.0
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        if self.hidden_dim < 1:
            fail(ConfigError, "MaskBlock: hidden_dim", got=self.hidden_dim, expected="a positive integer")
        if self.reduction_ratio == 0 and not self.aggregation_dim:
            fail(ConfigError, "Either aggregation_dim or reduction_ratio must be provided")
        if self.reduction_ratio and self.aggregation_dim is not None:
            seen = f"aggregation_dim={self.aggregation_dim}, reduction_ratio={self.reduction_ratio}"
            fail(ConfigError, "MaskBlock: two widths of the mask generator", got=seen, fix="give one of them")
        if self.aggregation_dim is not None and self.aggregation_dim < 1:
            fail(ConfigError, "MaskBlock: aggregation_dim", got=self.aggregation_dim, expected="a positive integer")
        check_rate(self.dropout)

    def aggregation(self, n_in: int) -> int:
        """The hidden width of the mask generator of a block with ``n_in`` inputs.

        Raises:
            ConfigError: the ratio leaves no width.
        """
        if self.aggregation_dim is not None:
            return self.aggregation_dim
        ratio = 1.0 if self.reduction_ratio is None else self.reduction_ratio
        width = int(n_in * ratio)
        if width < 1:
            seen = f"{width} = int({n_in} * {ratio})"
            fail(
                ConfigError, "MaskBlock: aggregation_dim", got=seen, expected="at least 1", fix="raise reduction_ratio"
            )
        return width


def init_mask_block(
    key: Tensor, n_in: int, n_mask_in: int, config: MaskBlockConfig, *, dtype: torch.dtype | None = None
) -> TensorDict:
    """Parameters of :func:`mask_block`.

    Returns:
        ``{"aggregate": linear [a, n_mask_in], "hidden": linear [h, n_in], "norm": [h], "project": linear [n_in, a]}``
        with a = ``config.aggregation(n_in)`` and h = ``hidden_dim``; ``"norm"`` only if there is one.
    """

    def linear_map(name: str, fan_in: int, fan_out: int, bias: bool = True) -> TensorDict:
        at = fold_in(key, name)
        return init_linear(
            at, fan_in, fan_out, bias=bias, weight=config.weight, bias_init=config.bias_init, dtype=dtype
        )

    a = config.aggregation(n_in)
    params = {
        "aggregate": linear_map("aggregate", n_mask_in, a),
        "hidden": linear_map("hidden", n_in, config.hidden_dim, config.bias),
        "project": linear_map("project", a, n_in),
    }
    if config.norm:
        params["norm"] = init_layer_norm(config.hidden_dim, dtype=dtype, device=key.device)
    return tree(params)


def mask_block(
    params: TensorDict,
    x: Float[Tensor, "b n"],
    mask_input: Float[Tensor, "b m"],
    config: MaskBlockConfig,
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> Float[Tensor, "b h"]:
    """``y = dropout(ReLU(LN(W_h (x ⊙ v) + b_h)))`` with the mask ``v = W_p ReLU(W_a m + b_a) + b_p``.

    The mask has no last activation: it is signed and unbounded. There is no residual.

    Shape: x ``[b, n]``, mask_input m ``[b, m]``, returns ``[b, h]``.

    Raises:
        ShapeError: another width than the parameters were made for, or two numbers of rows.
        KeyMissingError: training with dropout and no ``key``.

    Reference: Wang, She & Zhang 2021, MaskNet, eq. 5, 8 and 10.
    """
    n, m = params["hidden"]["weight"].shape[1], params["aggregate"]["weight"].shape[1]
    if x.shape[-1] != n or mask_input.shape[-1] != m or x.shape[:-1] != mask_input.shape[:-1]:
        seen = f"{tuple(x.shape)} and {tuple(mask_input.shape)}"
        fail(ShapeError, "mask_block: input and mask_input", got=seen, expected=f"[b, {n}] and [b, {m}]")
    mask = linear(params["project"], torch.relu(linear(params["aggregate"], mask_input)))
    y = linear(params["hidden"], x * mask)
    if "norm" in params.keys():
        y = layer_norm(params["norm"], y)
    return dropout(torch.relu(y), config.dropout, key=key, train=train)
