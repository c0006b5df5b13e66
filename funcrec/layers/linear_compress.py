"""The linear compress block of WuKong: new fields as linear combinations of the old ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import einsum
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import Initializer, KaimingUniform
from funcrec.core.random import fold_in
from funcrec.core.tree import tree

if TYPE_CHECKING:
    from jaxtyping import Float


def init_linear_compress(
    key: Tensor, n_in: int, n_out: int, *, weight: Initializer | None = None, dtype: torch.dtype | None = None
) -> TensorDict:
    """Parameters of :func:`linear_compress`: ``{"weight": [n_in, n_out]}``.

    ``weight`` None is U(±√(6 / n_out)): Kaiming's law reads the fan-in off the second axis, and in this layout that is
    the number of *outputs*. Odd, but it is TorchEasyRec's scale, and a transposed weight would change it.

    Raises:
        ConfigError: a number of fields is not positive.
    """
    if n_in < 1 or n_out < 1:
        fail(ConfigError, "linear_compress: (n_in, n_out)", got=(n_in, n_out), expected="positive integers")
    return tree({"weight": (weight or KaimingUniform())(fold_in(key, "weight"), (n_in, n_out), dtype)})


def linear_compress(params: TensorDict, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
    """``y[m, d] = Σ_n x[n, d] W[n, m]``: fields are mixed, components are not; no bias.

    Shape: x ``[b, n, d]``, returns ``[b, m, d]``.

    Raises:
        ShapeError: the number of fields of ``x`` is not ``n_in``.

    Reference: Zhang et al. 2024, Wukong: Towards a Scaling Law for Large-Scale Recommendation, sec. 3.4.
    """
    weight = params["weight"]
    if x.dim() != 3 or x.shape[1] != weight.shape[0]:
        fail(ShapeError, "linear_compress: input", got=tuple(x.shape), expected=f"[b, {weight.shape[0]}, d]")
    return einsum(x, weight, "b n d, n m -> b m d")
