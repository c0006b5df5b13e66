"""The small net that scores a step of a history against a query, in the form that costs least."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ShapeError, fail
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp

Spread = Callable[[Tensor], Tensor]


def init_attention_mlp(
    key: Tensor, n_in: int, config: MLPConfig, dtype: torch.dtype | None = None
) -> tuple[TensorDict, TensorDict]:
    """Params ``{"linear": {"bias": [1], "weight": [1, h]}, "mlp": …}`` and state ``{"mlp": …}``."""
    params, state = init_mlp(fold_in(key, "mlp"), n_in, config, dtype)
    head = init_linear(fold_in(key, "linear"), config.output_dim, 1, dtype=dtype)
    return tree({"linear": head, "mlp": params}), tree({"mlp": state})


def first_weight(params: TensorDict, blocks: int, dim: int) -> Sequence[Tensor]:
    """The first layer's weight ``[h, blocks·dim]`` as one ``[h, dim]`` matrix for each block of its input.

    Raises:
        ShapeError: the parameters were made for another width.
    """
    weight = params["mlp"]["0"]["linear"]["weight"]
    if weight.shape[1] != blocks * dim:
        seen = f"steps of {dim} components"
        fail(ShapeError, "attention: history", got=seen, expected=f"{weight.shape[1] // blocks} components a step")
    return rearrange(weight, "h (n d) -> n h d", n=blocks).unbind(0)


def attention_scores(
    params: TensorDict,
    by_query: Tensor,
    by_key: Tensor,
    by_product: Tensor,
    query: Tensor,
    keys: Tensor,
    spread: Spread,
    state: TensorDict,
    config: MLPConfig,
    *,
    key: Tensor | None = None,
    train: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, TensorDict]:
    """``Linear(MLP(·))`` of every step, whose first map is ``A q + B k + C (q ⊙ k) + b``.

    Any first layer over a concatenation of q, k, q−k and q⊙k is of this form. ``A q + b`` is computed once a row, and
    the concatenation, by far the largest tensor of such an attention, is never made.

    Args:
        by_query, by_key, by_product: the matrices A, B, C, each ``[h, d]``.
        query: ``[b, d]``.
        keys: steps, ``[..., d]``: padded ``[b, t, d]`` or jagged ``[nnz, d]``.
        spread: takes values by row, ``[b, …]``, to where the steps of that row are.
        mask: which steps count in batch statistics.

    Returns:
        Scores ``[...]``, and the new state.
    """
    bias = params["mlp"]["0"]["linear"].get("bias", None)
    row = F.linear(query, by_query, bias)
    first = spread(row) + F.linear(keys, by_key) + F.linear(spread(query) * keys, by_product)
    hidden, moved = mlp(
        params["mlp"], first, state["mlp"], config, key=child(key, "mlp"), train=train, mask=mask, projected=True
    )
    return rearrange(linear(params["linear"], hidden), "... 1 -> ..."), tree({"mlp": moved}) if train else state
