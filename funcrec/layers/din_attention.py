"""Target attention of the Deep Interest Network: a history weighed by what the candidate item makes of each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import einsum, rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.impl import check_impl
from funcrec.kernels import registry
from funcrec.layers.attention_mlp import (
    Spread,
    attend_by_op,
    attention_scores,
    first_weight,
    init_attention_mlp,
    use_op,
)
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
        impl: which form runs; see :data:`funcrec.core.impl.Impl`.
    """

    attn_mlp: MLPConfig
    max_seq_length: int = 0
    softmax: bool = True
    padding_in_statistics: bool = False
    impl: registry.Impl = "auto"

    def __post_init__(self) -> None:
        check_impl("DINEncoder", self.impl)
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

    def apply(
        self,
        params: TensorDict,
        query: Tensor,
        keys: Tensor,
        lengths: Tensor,
        state: TensorDict,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, TensorDict]:
        """:func:`din_attention` with this config."""
        return din_attention(params, query, keys, lengths, state, self, key=key, train=train, impl=self.impl)


def din_blocks(params: TensorDict, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first map of ``[q; k; q−k; q⊙k]`` as the matrices of q, of k and of q⊙k."""
    w_q, w_k, w_d, w_p = first_weight(params, 4, dim)
    return w_q + w_d, w_k - w_d, w_p


def din_scores(
    params: TensorDict,
    query: Tensor,
    rows: int,
    keys: Tensor,
    spread: Spread,
    state: TensorDict,
    config: DINEncoder,
    **options: Any,
) -> tuple[Tensor, TensorDict]:
    """``Linear(MLP([q; k; q−k; q⊙k]))`` of every step of ``rows`` histories, padded or jagged: ``attention_scores``."""
    blocks = din_blocks(params, keys.shape[-1])
    query = pad_query(query, rows, keys.shape[-1])
    return attention_scores(params, *blocks, query, keys, spread, state, config.attn_mlp, **options)


def _attend(
    params: TensorDict,
    query: Tensor,
    keys: Tensor,
    lengths: Tensor,
    state: TensorDict,
    config: DINEncoder,
    key: Tensor | None,
    train: bool,
) -> tuple[Tensor, Tensor, TensorDict]:
    """The weights, the steps that they weigh, and the new state."""
    steps, mask = real_steps(keys, lengths, config.max_seq_length)
    # Where nobody has a history, batch statistics of nothing would be NaN; a mask knows that there is none.
    counted = None if config.padding_in_statistics and steps.shape[1] else mask
    scores, state = din_scores(
        params,
        query,
        keys.shape[0],
        steps,
        lambda row: rearrange(row, "b c -> b 1 c"),
        state,
        config,
        key=key,
        train=train,
        mask=counted,
    )
    return masked_softmax(scores, mask) if config.softmax else torch.where(mask, scores, 0.0), steps, state


def _attend_by_op(params: TensorDict, query: Tensor, keys: Tensor, lengths: Tensor, config: DINEncoder) -> Tensor:
    b, t, d = keys.shape
    steps = t if config.max_seq_length == 0 else min(t, config.max_seq_length)
    starts = t * torch.arange(b, device=keys.device)
    flat = rearrange(keys, "b t d -> (b t) d")
    blocks, query = din_blocks(params, d), pad_query(query, b, d)
    real = lengths.clamp(min=0, max=steps)
    return attend_by_op(params, *blocks, query, flat, starts, real, config.attn_mlp, config.softmax)


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
    weights, _, state = _attend(params, query, keys, lengths, state, config, key, train)
    return weights, state


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
    impl: registry.Impl = "auto",
) -> tuple[Float[Tensor, "b d"], TensorDict]:
    """``y = Σ_t w_t k_t`` with ``w = softmax_t(Linear(MLP([q; k_t; q − k_t; q ⊙ k_t])))`` over the real steps.

    There is no division by √d. A query of fewer components than a step is padded with zeros on its right. What stands
    at padded steps has no effect. An empty history gives 0.

    Args:
        query: ``[b, q]``, q ≤ d.
        keys: histories, ``[b, t, d]``.
        lengths: how many steps are real, ``[b]`` int64.
        impl: which form runs; see :func:`funcrec.kernels.registry.use`.

    Shape: returns ``[b, d]`` and the new state; :func:`din_attention_weights` returns the weights.

    Raises:
        ShapeError: keys, lengths or a query of other shapes than the parameters were made for.
        KeyMissingError: training with dropout and no ``key``.

    Reference: Zhou et al. 2018, Deep Interest Network for Click-Through Rate Prediction, eq. 3 and figure 2; the
    softmax and the four parts of the input are TorchEasyRec's.
    """
    fits = keys.dim() == 3 and lengths.shape == keys.shape[:1]  # if not, the einops form says so
    if fits and use_op("din_attention", impl, params, query, keys, config.attn_mlp, train):
        return _attend_by_op(params, query, keys, lengths, config), state
    weights, steps, state = _attend(params, query, keys, lengths, state, config, key, train)
    return einsum(weights, steps, "b s, b s d -> b d"), state
