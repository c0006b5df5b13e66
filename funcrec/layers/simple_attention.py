"""Attention by the plain dot product of the query and each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.tree import tree
from funcrec.layers.history import check_max_seq_length, masked_softmax, real_steps

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class SimpleAttention:
    """Config of :func:`simple_attention`; an encoder of histories without parameters.

    Attributes:
        max_seq_length: read the first so many steps only; 0: all.
    """

    max_seq_length: int = 0

    def __post_init__(self) -> None:
        check_max_seq_length("SimpleAttention", self.max_seq_length)

    def output_dim(self, query_dim: int, key_dim: int) -> int:
        if query_dim != key_dim:
            fix = "choose query and key fields of the same dims; DINEncoder takes a shorter query"
            fail(
                ConfigError, "SimpleAttention: query_dim", got=query_dim, expected=f"that of a step, {key_dim}", fix=fix
            )
        return key_dim

    def init(
        self, key: Tensor, query_dim: int, key_dim: int, dtype: torch.dtype | None = None
    ) -> tuple[TensorDict, TensorDict]:
        """Two empty trees."""
        del key, dtype
        self.output_dim(query_dim, key_dim)
        return tree(), tree()

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
        """:func:`simple_attention`, and the state as it came."""
        del params, key, train
        return simple_attention(query, keys, lengths, self.max_seq_length), state


def simple_attention(
    query: Float[Tensor, "b d"], keys: Float[Tensor, "b t d"], lengths: Int[Tensor, " b"], max_seq_length: int = 0
) -> Float[Tensor, "b d"]:
    """``y = Σ_t w_t k_t`` with ``w = softmax_t(q · k_t)`` over the real steps, not divided by √d.

    An empty history gives 0; what stands at padded steps has no effect.

    Shape: query ``[b, d]``, keys ``[b, t, d]``, lengths ``[b]`` int64, returns ``[b, d]``.

    Raises:
        ShapeError: keys, lengths or a query of other shapes.

    Reference: Luong et al. 2015, Effective Approaches to Attention-based Neural Machine Translation, sec. 3.1, "dot".
    """
    steps, mask = real_steps(keys, lengths, max_seq_length)
    rows, _, dim = keys.shape
    if query.shape != (rows, dim):
        fail(ShapeError, "simple_attention: query", got=tuple(query.shape), expected=f"one for each row, {(rows, dim)}")
    weights = masked_softmax(einsum(query, steps, "b d, b s d -> b s"), mask)
    return einsum(weights, steps, "b s, b s d -> b d")
