"""Dot products of all pairs of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange
from torch import Tensor

from funcrec.core.errors import ShapeError, fail
from funcrec.kernels import registry

if TYPE_CHECKING:
    from jaxtyping import Float


def dot_interaction(
    x: Float[Tensor, "b n d"],
    *,
    dense: Float[Tensor, "b d"] | None = None,
    self_interaction: bool = False,
    impl: registry.Impl = "auto",
) -> Float[Tensor, "b p"]:
    """``y = [⟨x_i, x_j⟩ for i < j]``, row-major: (0,1), (0,2), …, (0,n−1), (1,2), …

    Args:
        dense: one more field, the first, which is also put behind the products: DLRM's projected dense features.
        self_interaction: take the pairs ``i <= j``.
        impl: which form runs; see :func:`funcrec.kernels.registry.use`.

    Shape: x ``[b, n, d]``, returns ``[b, p]`` with p = n(n−1)/2, or n(n+1)/2 with ``self_interaction``. With ``dense``
        n counts it too, and the result is ``[b, p + d]``.

    Raises:
        ShapeError: x is not ``[b, n, d]``, or ``dense`` is not ``[b, d]``.

    Reference: Naumov et al. 2019, Deep Learning Recommendation Model, sec. 2.1.4.
    """
    if x.dim() != 3:
        fix = "funcrec.layers.inputs.stacked makes it of a group vector"
        fail(ShapeError, "dot_interaction: input", got=tuple(x.shape), expected="[b, n, d]", fix=fix)
    if dense is not None and dense.shape != (x.shape[0], x.shape[2]):
        fail(ShapeError, "dot_interaction: dense", got=tuple(dense.shape), expected=(x.shape[0], x.shape[2]))
    if registry.use("dot_interaction", impl, x, dense, unsupported=registry.dot.unsupported(x, dense)):
        fields, row = registry.cast(x, dense)
        return registry.dot.dots(fields, row, self_interaction)
    fields = x if dense is None else torch.cat([rearrange(dense, "b d -> b 1 d"), x], dim=1)
    b, n, _ = fields.shape
    gram = einsum(fields, fields, "b i d, b j d -> b i j")
    i, j = torch.triu_indices(n, n, offset=0 if self_interaction else 1, device=x.device)
    # A gather, because the backward of gram[:, i, j] is an index_put with accumulate, several times as slow.
    products = rearrange(gram, "b i j -> b (i j)").gather(1, (i * n + j).expand(b, -1))
    return products if dense is None else torch.cat([products, dense], dim=1)
