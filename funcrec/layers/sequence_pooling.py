"""The mean or the sum of a history, as an encoder: what attention has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.tree import tree
from funcrec.layers.history import check_max_seq_length, real_steps
from funcrec.layers.pooling import pool_padded


@dataclass(frozen=True, kw_only=True)
class PoolingEncoder:
    """``y = Σ_t k_t`` over the real steps, divided by their number (at least 1) for ``"mean"``; any query is unused.

    An empty history gives 0. What stands at padded steps has no effect.

    Attributes:
        pooling: ``"mean"`` or ``"sum"``.
        max_seq_length: read the first so many steps only; 0: all.
    """

    pooling: Literal["mean", "sum"] = "mean"
    max_seq_length: int = 0

    def __post_init__(self) -> None:
        check_max_seq_length("PoolingEncoder", self.max_seq_length)
        if self.pooling not in ("mean", "sum"):
            what = "PoolingEncoder: only sum|mean pooling type supported now"
            fail(ConfigError, what, got=repr(self.pooling), expected="'mean' or 'sum'")

    def output_dim(self, query_dim: int, key_dim: int) -> int:
        del query_dim
        return key_dim

    def init(
        self, key: Tensor, query_dim: int, key_dim: int, dtype: torch.dtype | None = None
    ) -> tuple[TensorDict, TensorDict]:
        """Two empty trees."""
        del key, query_dim, key_dim, dtype
        return tree(), tree()

    def apply(
        self,
        params: TensorDict,
        query: Tensor | None,
        keys: Tensor,
        lengths: Tensor,
        state: TensorDict,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, TensorDict]:
        """``[b, t, d] -> [b, d]``; see :class:`~funcrec.core.groups.Encoder`."""
        del params, query, key, train
        steps, mask = real_steps(keys, lengths, self.max_seq_length)
        return pool_padded(steps, mask, self.pooling), state
