"""Dot products of all pairs of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange
from torch import Tensor

from funcrec.core.errors import ShapeError, fail

if TYPE_CHECKING:
    from jaxtyping import Float


def dot_interaction(x: Float[Tensor, "b n d"], *, self_interaction: bool = False) -> Float[Tensor, "b p"]:
    """``y = [⟨x_i, x_j⟩ for i < j]``, row-major: (0,1), (0,2), …, (0,n−1), (1,2), …

    Args:
        self_interaction: take the pairs ``i <= j``.

    Shape: x ``[b, n, d]``, returns ``[b, p]`` with p = n(n−1)/2, or n(n+1)/2 with ``self_interaction``.

    Raises:
        ShapeError: x is not ``[b, n, d]``.

    Reference: Naumov et al. 2019, Deep Learning Recommendation Model, sec. 2.1.4.
    """
    if x.dim() != 3:
        fix = "funcrec.layers.inputs.stacked makes it of a group vector"
        fail(ShapeError, "dot_interaction: input", got=tuple(x.shape), expected="[b, n, d]", fix=fix)
    b, n, _ = x.shape
    gram = einsum(x, x, "b i d, b j d -> b i j")
    i, j = torch.triu_indices(n, n, offset=0 if self_interaction else 1, device=x.device)
    # A gather, because the backward of gram[:, i, j] is an index_put with accumulate, several times as slow.
    return rearrange(gram, "b i j -> b (i j)").gather(1, (i * n + j).expand(b, -1))
