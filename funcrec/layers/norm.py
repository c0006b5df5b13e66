"""Layer normalization of the last axis, of one vector or of several with weights of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import reduce
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ShapeError, fail
from funcrec.core.tree import tree

if TYPE_CHECKING:
    from jaxtyping import Float


def init_layer_norm(
    n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> TensorDict:
    """``{"bias": 0, "weight": 1}``, each ``[n]``."""
    return tree(
        {"bias": torch.zeros(n, dtype=dtype, device=device), "weight": torch.ones(n, dtype=dtype, device=device)}
    )


def layer_norm(params: TensorDict, x: Float[Tensor, "... c"], eps: float = 1e-5) -> Float[Tensor, "... c"]:
    """``y = w ⊙ (x − mean x) / √(var x + eps) + b``, mean and biased variance over the last axis.

    Shape: x ``[..., c]``, returns ``[..., c]``. Weights ``[f, c]`` are those of f vectors, x being ``[..., f, c]``.

    Raises:
        ShapeError: the last dims of ``x`` are not those that the parameters were made for.

    Reference: Ba, Kiros & Hinton 2016, Layer Normalization, eq. 4.
    """
    weight = params["weight"]
    if x.shape[-weight.dim() :] != weight.shape:
        expected = f"[..., {', '.join(map(str, weight.shape))}]"
        fail(ShapeError, "layer_norm: input", got=tuple(x.shape), expected=expected)
    # Plain operations: the gradient of the jvp of torch's kernel is wrong (torch 2.13), and silently so.
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    centred = wide - reduce(wide, "... c -> ... 1", "mean")
    scale = torch.rsqrt(reduce(centred.square(), "... c -> ... 1", "mean") + eps)
    return (centred * scale * weight + params["bias"]).to(x.dtype)
