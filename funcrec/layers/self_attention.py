"""A history by multi-head attention of its steps to each other, averaged over the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange, reduce
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.init import Constant, XavierUniform
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.layers.dropout import check_rate, dropout
from funcrec.layers.history import check_max_seq_length, masked_softmax, real_steps
from funcrec.layers.linear import init_linear, linear

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class SelfAttentionEncoder:
    """Config of :func:`self_attention`; an encoder of histories that uses no query.

    Attributes:
        dim: width A of the attention and of the output.
        num_heads: a divisor of ``dim``.
        dropout: rate of the attention weights.
        max_seq_length: read the first so many steps only; 0: all.
        divide_by_untruncated: divide the sum of a history that ``max_seq_length`` cuts by its length before the cut,
            as TorchEasyRec does, instead of by the number of steps summed.
    """

    dim: int = 512
    num_heads: int = 8
    dropout: float = 0.0
    max_seq_length: int = 0
    divide_by_untruncated: bool = False

    def __post_init__(self) -> None:
        check_max_seq_length("SelfAttentionEncoder", self.max_seq_length)
        check_rate(self.dropout)
        if self.dim < 1 or self.num_heads < 1 or self.dim % self.num_heads:
            seen = f"dim {self.dim}, num_heads {self.num_heads}"
            what = "SelfAttentionEncoder: multihead_attn_dim must be divisible by num_heads"
            fail(ConfigError, what, got=seen, expected="positive integers, dim a multiple of num_heads")

    def output_dim(self, query_dim: int, key_dim: int) -> int:
        del query_dim, key_dim
        return self.dim

    def init(
        self, key: Tensor, query_dim: int, key_dim: int, dtype: torch.dtype | None = None
    ) -> tuple[TensorDict, TensorDict]:
        """Params ``{"in_proj", "key", "out_proj", "query", "value"}``, linear maps, and an empty state.

        ``query``, ``key``, ``value``: key_dim → A. ``in_proj``: the three inner maps, ``[3A, A]``, Xavier-uniform.
        ``out_proj``: A → A. The last two have zero bias, as in ``torch.nn.MultiheadAttention``.
        """
        del query_dim
        a, zero = self.dim, Constant(0.0)
        outer = {name: init_linear(fold_in(key, name), key_dim, a, dtype=dtype) for name in ("query", "key", "value")}
        inner = init_linear(fold_in(key, "in_proj"), a, 3 * a, weight=XavierUniform(), bias_init=zero, dtype=dtype)
        last = init_linear(fold_in(key, "out_proj"), a, a, bias_init=zero, dtype=dtype)
        return tree({**outer, "in_proj": inner, "out_proj": last}), tree()

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
        """:func:`self_attention` with this config, and the state as it came; any query is unused."""
        del query
        return self_attention(params, keys, lengths, self, key=key, train=train), state


def self_attention(
    params: TensorDict,
    keys: Float[Tensor, "b t d"],
    lengths: Int[Tensor, " b"],
    config: SelfAttentionEncoder,
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> Float[Tensor, "b a"]:
    """``y = (1/n) Σ_t MultiHead(x W_Q, x W_K, x W_V)_t`` over the n real steps of a history x.

    MultiHead has projections of its own after W_Q, W_K and W_V: ``o_t = concat_h(Σ_s P^h_{ts} v^h_s)``,
    ``P^h_t = softmax_s(q^h_t · k^h_s / √(A / heads))`` over the real steps s. The average is linear, so it is taken of
    P, before the values and the output map: the outputs of single steps are never made. An empty history gives 0, with
    finite derivatives of every order; what stands at padded steps has no effect.

    Shape: keys ``[b, t, d]``, lengths ``[b]`` int64, returns ``[b, a]``.

    Raises:
        KeyMissingError: training with dropout and no ``key``.
        ShapeError: keys or lengths of other shapes than the parameters were made for.

    Reference: Vaswani et al. 2017, Attention Is All You Need, sec. 3.2.2.
    """
    steps, mask = real_steps(keys, lengths, config.max_seq_length)
    inner = [
        tree(dict(zip(("bias", "weight"), part, strict=True)))
        for part in zip(params["in_proj"]["bias"].chunk(3), params["in_proj"]["weight"].chunk(3), strict=True)
    ]
    heads = config.num_heads
    q, k, v = (
        rearrange(linear(own, linear(params[name], steps)), "b t (h c) -> b h t c", h=heads)
        for own, name in zip(inner, ("query", "key", "value"), strict=True)
    )
    scores = einsum(q, k, "b h t c, b h s c -> b h t s") / math.sqrt(config.dim // heads)
    weights = masked_softmax(scores, rearrange(mask, "b s -> b 1 1 s").expand(scores.shape))
    weights = dropout(weights, config.dropout, key=child(key, "dropout"), train=train)
    weights = torch.where(rearrange(mask, "b t -> b 1 t 1"), weights, 0.0)

    n = reduce(mask, "b t -> b 1", "sum").to(steps.dtype)
    mean = reduce(weights, "b h t s -> b h s", "sum") / rearrange(n.clamp(min=1), "b 1 -> b 1 1")
    y = linear(params["out_proj"], rearrange(einsum(mean, v, "b h s, b h s c -> b h c"), "b h c -> b (h c)"))
    # A length past the steps that were handed in counts those: all other encoders read it so.
    untruncated = rearrange(lengths, "b -> b 1").clamp(max=keys.shape[1]).to(steps.dtype)
    divisor = untruncated if config.divide_by_untruncated else n
    return y * (n / divisor.clamp(min=1))  # an empty history has n = 0, which also takes away the output's bias
