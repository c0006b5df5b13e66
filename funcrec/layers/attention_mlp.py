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
from funcrec.core.tree import leaves, tree
from funcrec.kernels import registry
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


def _between(config: MLPConfig, train: bool) -> list[str]:
    """What the layers of the net have besides a linear map and an activation."""
    there = {
        "batch normalization": config.use_bn,
        "layer normalization": config.use_ln,
        "dropout": train and any(config.dropout_rates),
    }
    return [name for name, is_there in there.items() if is_there]


def _activation(config: MLPConfig) -> str:
    """The name of the activation as the op knows it: ``"relu"`` for ``"nn.ReLU(inplace=True)"``."""
    written = (config.activation or "identity").partition("(")[0].strip()
    return written.removeprefix("torch.").removeprefix("nn.").lower().replace("_", "")


def use_op(
    layer: str, impl: registry.Impl, params: TensorDict, query: Tensor, keys: Tensor, config: MLPConfig, train: bool
) -> bool:
    """Whether :func:`attend_by_op` computes this attention: :func:`funcrec.kernels.registry.use`."""
    why_not = registry.din.unsupported(keys, config.hidden_units, _activation(config), _between(config, train))
    slower = registry.without_tf32(keys)
    return registry.use(layer, impl, query, keys, *leaves(params), unsupported=why_not, slower=slower)


def attend_by_op(
    params: TensorDict,
    by_query: Tensor,
    by_key: Tensor,
    by_product: Tensor,
    query: Tensor,
    keys: Tensor,
    starts: Tensor,
    lengths: Tensor,
    config: MLPConfig,
    softmax: bool,
) -> Tensor:
    """``Σ_t w_t k_t`` with the scores of :func:`attention_scores` as w, or their softmax: no step's score is stored.

    Args:
        query: ``[b, d]``.
        keys: steps of all rows, one after the other, ``[n, d]``; row b has ``lengths[b]`` of them from ``starts[b]``.

    Shape: returns ``[b, d]``.
    """
    first, second, head = params["mlp"]["0"]["linear"], params["mlp"]["1"]["linear"], params["linear"]
    row = F.linear(query, by_query, first.get("bias", None))
    weight = second["weight"]
    bias = second.get("bias", None)
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    row, query, keys, *matrices = registry.cast(  # type: ignore[assignment]  # of tensors, tensors
        row, query, keys, by_key, by_product, weight, bias, rearrange(head["weight"], "1 h -> h"), head["bias"]
    )
    lengths = lengths.to(torch.int64)
    return registry.din.din(row, query, keys, starts, lengths, *matrices, _activation(config), softmax)
