"""Target attention in windows of time: one summary for each stretch of the history, then the query itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.tree import tree
from funcrec.layers.attention_mlp import attention_scores, first_weight, init_attention_mlp
from funcrec.layers.history import check_query, pad_query, real_steps
from funcrec.layers.mlp import MLPConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class MultiWindowDINEncoder:
    """Config of :func:`multi_window_din`; an encoder of histories.

    Attributes:
        windows_len: number of steps of each window, one after the other; steps past the last are not read.
        attn_mlp: the net that scores a step; a linear map to one number follows it.
        padding_in_statistics: see :class:`~funcrec.layers.din_attention.DINEncoder`.
    """

    windows_len: tuple[int, ...]
    attn_mlp: MLPConfig
    padding_in_statistics: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows_len", tuple(self.windows_len))
        if not self.windows_len or any(n < 1 for n in self.windows_len):
            what = "MultiWindowDINEncoder: windows_len"
            fail(ConfigError, what, got=self.windows_len, expected="one positive number of steps a window")

    def output_dim(self, query_dim: int, key_dim: int) -> int:
        check_query("MultiWindowDINEncoder", query_dim, key_dim)
        return (len(self.windows_len) + 1) * key_dim

    def init(
        self, key: Tensor, query_dim: int, key_dim: int, dtype: torch.dtype | None = None
    ) -> tuple[TensorDict, TensorDict]:
        """Params ``{"linear", "mlp", "prelu": {"weight": [1]}}``: first map ``[h, 3 key_dim]``; state ``{"mlp"}``."""
        self.output_dim(query_dim, key_dim)
        params, state = init_attention_mlp(key, 3 * key_dim, self.attn_mlp, dtype)
        slope = torch.full((1,), 0.25, dtype=dtype, device=key.device)
        return tree({"linear": params["linear"], "mlp": params["mlp"], "prelu": {"weight": slope}}), state

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
        """:func:`multi_window_din` with this config."""
        return multi_window_din(params, query, keys, lengths, state, self, key=key, train=train)


def multi_window_din(
    params: TensorDict,
    query: Float[Tensor, "b q"],
    keys: Float[Tensor, "b t d"],
    lengths: Int[Tensor, " b"],
    state: TensorDict,
    config: MultiWindowDINEncoder,
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> tuple[Float[Tensor, "b _"], TensorDict]:
    """``[y_1; …; y_W; q]`` with ``y_w`` the mean of ``a_t k_t`` over the real steps of window w.

    ``a_t = PReLU(Linear(MLP([k_t; q ⊙ k_t; q])))``, no softmax. Windows follow each other from the first step on; one
    without a real step gives 0. The query is padded with zeros on its right to d components. What stands at padded
    steps has no effect. Steps past the last window do not reach the output, only batch statistics.

    Shape: query ``[b, q]``, keys ``[b, t, d]``, lengths ``[b]`` int64; returns ``[b, (W + 1)·d]`` and the new state.

    Raises:
        ShapeError: keys, lengths or a query of other shapes than the parameters were made for.
        KeyMissingError: training with dropout and no ``key``.

    Reference: TorchEasyRec's ``MultiWindowDINEncoder``.
    """
    steps, mask = real_steps(keys, lengths)
    starts = [sum(config.windows_len[:w]) for w in range(len(config.windows_len))]
    first = torch.tensor(starts, device=keys.device)
    size = torch.tensor(config.windows_len, device=keys.device)
    # Where nobody has a history, batch statistics of nothing would be NaN; a mask knows that there is none.
    counted = None if config.padding_in_statistics and steps.shape[1] else mask
    by_key, by_product, by_query = first_weight(params, 3, keys.shape[-1])
    query = pad_query(query, keys.shape[0], keys.shape[-1])
    scores, state = attention_scores(
        params,
        by_query,
        by_key,
        by_product,
        query,
        steps,
        lambda row: rearrange(row, "b c -> b 1 c"),
        state,
        config.attn_mlp,
        key=key,
        train=train,
        mask=counted,
    )
    weights = torch.where(scores > 0, scores, params["prelu"]["weight"] * scores)
    since = torch.arange(steps.shape[1], device=keys.device) - rearrange(first, "w -> w 1")
    inside = (since >= 0) & (since < rearrange(size, "w -> w 1"))
    member = rearrange(inside, "w t -> 1 w t") & rearrange(mask, "b t -> b 1 t")
    by_window = torch.where(member, rearrange(weights, "b t -> b 1 t"), 0.0)
    total = einsum(by_window, steps, "b w t, b t d -> b w d")
    mean = total / member.sum(-1, keepdim=True).clamp(min=1)
    return torch.cat([rearrange(mean, "b w d -> b (w d)"), query], dim=1), state
