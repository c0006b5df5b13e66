"""Squeeze-and-excitation of fields: one learned gate a field and instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import Initializer
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.layers.linear import init_linear, linear

if TYPE_CHECKING:
    from jaxtyping import Float


def init_senet(
    key: Tensor,
    n_fields: int,
    reduction_ratio: int = 2,
    *,
    weight: Initializer | None = None,
    dtype: torch.dtype | None = None,
) -> TensorDict:
    """Parameters of :func:`senet`: ``{"excite": {"weight": [f, r]}, "squeeze": {"weight": [r, f]}}``.

    Args:
        n_fields: the number of fields f.
        reduction_ratio: r = max(1, f // reduction_ratio).
        weight: initial law of both maps; None for U(±1/√fan_in).

    Raises:
        ConfigError: a number is not positive.
    """
    if n_fields < 1 or reduction_ratio < 1:
        seen = (n_fields, reduction_ratio)
        fail(ConfigError, "senet: (n_fields, reduction_ratio)", got=seen, expected="positive integers")
    r = max(1, n_fields // reduction_ratio)
    make = lambda name, n, m: init_linear(fold_in(key, name), n, m, bias=False, weight=weight, dtype=dtype)  # noqa: E731
    return tree({"excite": make("excite", r, n_fields), "squeeze": make("squeeze", n_fields, r)})


def senet(params: TensorDict, x: Float[Tensor, "b w"], widths: Sequence[int]) -> Float[Tensor, "b w"]:
    """``y_i = σ(W_2 ReLU(W_1 z))_i x_i`` for each field i, with ``z_i`` the mean of the components of ``x_i``.

    Args:
        widths: the width of each field's slice of ``x``, in order.

    Shape: x ``[b, w]`` with w = Σ widths, returns ``[b, w]``.

    Raises:
        ShapeError: the widths are not those of ``x``, not positive, or not as many as the parameters were made for.

    Reference: Huang et al. 2019, FiBiNET, eq. 2-4, with a sigmoid; TorchEasyRec's InputSENet.
    """
    n = params["squeeze"]["weight"].shape[1]
    if len(widths) != n or min(widths) < 1 or x.dim() != 2 or x.shape[1] != sum(widths):
        seen = f"{tuple(x.shape)} for widths {list(widths)}"
        fail(ShapeError, "senet: input", got=seen, expected=f"[b, sum of the widths] for {n} positive widths")
    field = torch.tensor([i for i, width in enumerate(widths) for _ in range(width)], device=x.device)
    count = torch.tensor(list(widths), dtype=x.dtype, device=x.device)
    means = x.new_zeros(x.shape[0], n).index_add(1, field, x) / count
    gates = torch.sigmoid(linear(params["excite"], torch.relu(linear(params["squeeze"], means))))
    return x * gates.index_select(1, field)
