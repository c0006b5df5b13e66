"""Dice, the data-adaptive activation of the Deep Interest Network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.tree import tree
from funcrec.layers.batch_norm import batch_norm, init_batch_norm

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def init_dice(key: Tensor, n: int, dtype: torch.dtype | None = None) -> tuple[TensorDict, TensorDict]:
    """Parameters ``{"alpha": 0}`` and state ``{"mean": 0, "var": 1}``, each ``[n]``."""
    _, state = init_batch_norm(n, affine=False, dtype=dtype, device=key.device)
    return tree({"alpha": torch.zeros(n, dtype=dtype, device=key.device)}), state


def dice(
    params: TensorDict,
    x: Float[Tensor, "... c"],
    state: TensorDict,
    *,
    train: bool = False,
    mask: Bool[Tensor, "*rows"] | None = None,
) -> tuple[Float[Tensor, "... c"], TensorDict]:
    """``y = p ⊙ x + α ⊙ (1 − p) ⊙ x`` with ``p = σ(BN(x))``, BN without weight and bias.

    At the initial α = 0 this is ``x · σ(BN(x))``. ``mask``: see :func:`~funcrec.layers.batch_norm.batch_norm`.

    Shape: x ``[..., c]``, returns ``[..., c]`` and the new running statistics.

    Raises:
        ShapeError: as :func:`~funcrec.layers.batch_norm.batch_norm`.

    Reference: Zhou et al. 2018, Deep Interest Network for Click-Through Rate Prediction, eq. 3.
    """
    normal, state = batch_norm(tree(), x, state, train=train, mask=mask)
    p = torch.sigmoid(normal)
    return x * (p + params["alpha"] * (1 - p)), state
