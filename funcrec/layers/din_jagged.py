"""Target attention of the Deep Interest Network over histories without padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.ragged import Ragged, rows_at, segment_sum
from funcrec.kernels import registry
from funcrec.layers.attention_mlp import attend_by_op, use_op
from funcrec.layers.din_attention import DINEncoder, din_blocks, din_scores
from funcrec.layers.history import pad_query

if TYPE_CHECKING:
    from jaxtyping import Float


def _check(keys: Ragged, config: DINEncoder, train: bool) -> None:
    """Raise on keys that are no histories, and on statistics of padding that is not there."""
    values = keys.values
    if values.dim() != 2 or keys.weights is not None:
        seen = f"values {tuple(values.shape)}, weighted: {keys.weights is not None}"
        fail(ShapeError, "jagged attention", got=seen, expected="values [nnz, D] without weights")
    if train and config.padding_in_statistics:
        fix = "set padding_in_statistics=False, or use din_attention"
        fail(ConfigError, "jagged attention in training", got="padding_in_statistics=True, but no padding", fix=fix)


def _attend_jagged(
    params: TensorDict,
    query: Tensor,
    keys: Ragged,
    state: TensorDict,
    config: DINEncoder,
    key: Tensor | None,
    train: bool,
) -> tuple[Tensor, Tensor, TensorDict]:
    """The weights, the steps that they weigh, and the new state."""
    _check(keys, config, train)
    values, segments, n = keys.values, keys.segments(), len(keys)
    mask = torch.ones_like(segments, dtype=torch.bool)
    if config.max_seq_length:
        mask = torch.arange(values.shape[0], device=values.device) - keys.offsets[segments] < config.max_seq_length
        values = torch.where(rearrange(mask, "v -> v 1"), values, 0.0)  # as in real_steps: a NaN outlives a weight of 0
    scores, state = din_scores(
        params, query, n, values, lambda row: rows_at(row, segments), state, config, key=key, train=train, mask=mask
    )
    if not config.softmax:
        return torch.where(mask, scores, 0.0), values, state
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    # Any shift of a row's scores leaves its weights alone, so the largest, which avoids overflow, needs no derivative.
    masked = torch.where(mask, wide, torch.finfo(wide.dtype).min).detach()
    largest = masked.new_zeros(n).scatter_reduce(0, segments, masked, "amax", include_self=False)
    exponentials = torch.where(mask, torch.exp(torch.where(mask, wide - largest[segments], 0.0)), 0.0)
    total = segment_sum(exponentials, segments, n)
    return (exponentials / rows_at(total, segments)).to(scores.dtype), values, state


def din_attention_weights_jagged(
    params: TensorDict,
    query: Float[Tensor, "b q"],
    keys: Ragged,
    state: TensorDict,
    config: DINEncoder,
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> tuple[Float[Tensor, " nnz"], TensorDict]:
    """The weights of :func:`din_attention_jagged`, one a step, 0 past ``max_seq_length``; and the new state."""
    weights, _, state = _attend_jagged(params, query, keys, state, config, key, train)
    return weights, state


def din_attention_jagged(
    params: TensorDict,
    query: Float[Tensor, "b q"],
    keys: Ragged,
    state: TensorDict,
    config: DINEncoder,
    *,
    key: Tensor | None = None,
    train: bool = False,
    impl: registry.Impl = "auto",
) -> tuple[Float[Tensor, "b d"], TensorDict]:
    """:func:`~funcrec.layers.din_attention.din_attention` of histories without padding.

    Memory and time follow the real steps. The two agree, batch statistics included; dropout draws other elements.

    Args:
        keys: row b is the history of row b of the query; values ``[nnz, d]``.
        impl: which form runs; see :func:`funcrec.kernels.registry.use`.

    Shape: query ``[b, q]``, returns ``[b, d]`` and the new state.

    Raises:
        ShapeError: weighted keys, or keys or a query of other shapes.
        ConfigError: training with ``padding_in_statistics``: there is no padding.
    """
    _check(keys, config, train)
    if use_op("din_attention_jagged", impl, params, query, keys.values, config.attn_mlp, train):
        d, lengths = keys.values.shape[1], keys.lengths
        if config.max_seq_length:
            lengths = lengths.clamp(max=config.max_seq_length)
        blocks, query = din_blocks(params, d), pad_query(query, len(keys), d)
        y = attend_by_op(
            params, *blocks, query, keys.values, keys.offsets[:-1], lengths, config.attn_mlp, config.softmax
        )
        return y, state
    weights, values, state = _attend_jagged(params, query, keys, state, config, key, train)
    return segment_sum(rearrange(weights, "v -> v 1") * values, keys.segments(), len(keys)), state
