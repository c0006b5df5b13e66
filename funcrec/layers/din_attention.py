"""Target attention of the Deep Interest Network: a history weighed by what the candidate item makes of each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.ragged import Ragged, segment_sum
from funcrec.layers.attention_mlp import Spread, attention_scores, first_weight, init_attention_mlp
from funcrec.layers.history import check_max_seq_length, check_query, masked_softmax, pad_query, real_steps
from funcrec.layers.mlp import MLPConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class DINEncoder:
    """Config of :func:`din_attention`; an encoder of histories.

    Attributes:
        attn_mlp: the net that scores a step; a linear map to one number follows it.
        max_seq_length: read the first so many steps only; 0: all.
        softmax: whether the scores become weights that sum to 1; else they are the weights, which keeps how strong an
            interest is, as the paper has it.
        padding_in_statistics: whether padded steps, as steps of zeros, count in the batch statistics of batch
            normalization and Dice, as in TorchEasyRec: training then depends on how far a batch is padded.
    """

    attn_mlp: MLPConfig
    max_seq_length: int = 0
    softmax: bool = True
    padding_in_statistics: bool = False

    def __post_init__(self) -> None:
        check_max_seq_length("DINEncoder", self.max_seq_length)

    def output_dim(self, query_dim: int, key_dim: int) -> int:
        check_query("DINEncoder", query_dim, key_dim)
        return key_dim

    def init(
        self, key: Tensor, query_dim: int, key_dim: int, dtype: torch.dtype | None = None
    ) -> tuple[TensorDict, TensorDict]:
        """Params ``{"linear": …, "mlp": …}``, the first map being ``[h, 4 key_dim]``, and state ``{"mlp": …}``."""
        check_query("DINEncoder", query_dim, key_dim)
        return init_attention_mlp(key, 4 * key_dim, self.attn_mlp, dtype)

    def apply(self, params, query, keys, lengths, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        return din_attention(params, query, keys, lengths, state, self, key=key, train=train)


def _scores(
    params: TensorDict, query: Tensor, keys: Tensor, spread: Spread, state: TensorDict, config: DINEncoder, **options
) -> tuple[Tensor, TensorDict]:
    """``Linear(MLP([q; k; q−k; q⊙k]))`` of every step."""
    w_q, w_k, w_d, w_p = first_weight(params, 4, keys.shape[-1])
    query = pad_query(query, keys.shape[-1])
    return attention_scores(params, w_q + w_d, w_k - w_d, w_p, query, keys, spread, state, config.attn_mlp, **options)


def din_attention_weights(
    params: TensorDict,
    query: Float[Tensor, "b q"],
    keys: Float[Tensor, "b t d"],
    lengths: Int[Tensor, " b"],
    state: TensorDict,
    config: DINEncoder,
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> tuple[Float[Tensor, "b s"], TensorDict]:
    """The weights of :func:`din_attention`, 0 at padded steps, s = min(t, max_seq_length); and the new state."""
    keys, mask = real_steps(keys, lengths, config.max_seq_length)
    # Where nobody has a history, batch statistics of nothing would be NaN; a mask knows that there is none.
    counted = None if config.padding_in_statistics and keys.shape[1] else mask
    scores, state = _scores(
        params,
        query,
        keys,
        lambda row: rearrange(row, "b c -> b 1 c"),
        state,
        config,
        key=key,
        train=train,
        mask=counted,
    )
    return masked_softmax(scores, mask) if config.softmax else torch.where(mask, scores, 0.0), state


def din_attention(
    params: TensorDict,
    query: Float[Tensor, "b q"],
    keys: Float[Tensor, "b t d"],
    lengths: Int[Tensor, " b"],
    state: TensorDict,
    config: DINEncoder,
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> tuple[Float[Tensor, "b d"], TensorDict]:
    """``y = Σ_t w_t k_t`` with ``w = softmax_t(Linear(MLP([q; k_t; q − k_t; q ⊙ k_t])))`` over the real steps.

    There is no division by √d. A query of fewer components than a step is padded with zeros on its right. What stands
    at padded steps has no effect. An empty history gives 0.

    Args:
        query: ``[b, q]``, q ≤ d.
        keys: histories, ``[b, t, d]``.
        lengths: how many steps are real, ``[b]`` int64.

    Shape: returns ``[b, d]`` and the new state; :func:`din_attention_weights` returns the weights.

    Raises:
        ShapeError: keys or lengths of other shapes than the parameters were made for.
        KeyMissingError: training with dropout and no ``key``.

    Reference: Zhou et al. 2018, Deep Interest Network for Click-Through Rate Prediction, eq. 3 and figure 2; the
    softmax and the four parts of the input are TorchEasyRec's.
    """
    weights, state = din_attention_weights(params, query, keys, lengths, state, config, key=key, train=train)
    steps, _ = real_steps(keys, lengths, config.max_seq_length)
    return einsum(weights, steps, "b s, b s d -> b d"), state


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
    values, segments, n = keys.values, keys.segments(), len(keys)
    if values.dim() != 2 or keys.weights is not None or query.shape[:1] != (n,):
        seen = (
            f"values {tuple(values.shape)}, {n} rows, query {tuple(query.shape)}, weighted: {keys.weights is not None}"
        )
        fail(ShapeError, "jagged attention", got=seen, expected="values [nnz, D] without weights, query [B, Dq]")
    if train and config.padding_in_statistics:
        fix = "set padding_in_statistics=False, or use din_attention"
        fail(ConfigError, "jagged attention in training", got="padding_in_statistics=True, but no padding", fix=fix)
    mask = torch.ones_like(segments, dtype=torch.bool)
    if config.max_seq_length:
        mask = torch.arange(values.shape[0], device=values.device) - keys.offsets[segments] < config.max_seq_length
    scores, state = _scores(
        params, query, values, lambda row: row[segments], state, config, key=key, train=train, mask=mask
    )
    if not config.softmax:
        return torch.where(mask, scores, 0.0), state
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    # Any shift of a row's scores leaves its weights alone, so the largest, which avoids overflow, needs no derivative.
    masked = torch.where(mask, wide, torch.finfo(wide.dtype).min).detach()
    largest = masked.new_zeros(n).scatter_reduce(0, segments, masked, "amax", include_self=False)
    exponentials = torch.where(mask, torch.exp(torch.where(mask, wide - largest[segments], 0.0)), 0.0)
    total = segment_sum(exponentials, segments, n)
    return (exponentials / total[segments]).to(scores.dtype), state


def din_attention_jagged(
    params: TensorDict,
    query: Float[Tensor, "b q"],
    keys: Ragged,
    state: TensorDict,
    config: DINEncoder,
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> tuple[Float[Tensor, "b d"], TensorDict]:
    """:func:`din_attention` of histories without padding: memory and time follow the real steps.

    The two agree, batch statistics included; dropout draws other elements.

    Args:
        keys: row b is the history of row b of the query; values ``[nnz, d]``.

    Shape: query ``[b, q]``, returns ``[b, d]`` and the new state.

    Raises:
        ShapeError: weighted keys, or other shapes.
        ConfigError: training with ``padding_in_statistics``: there is no padding.
    """
    weights, state = din_attention_weights_jagged(params, query, keys, state, config, key=key, train=train)
    return segment_sum(rearrange(weights, "v -> v 1") * keys.values, keys.segments(), len(keys)), state
