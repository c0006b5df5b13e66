"""The second-order interaction of a factorization machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import reduce
from torch import Tensor

from funcrec.core.errors import ShapeError, fail
from funcrec.kernels import registry

if TYPE_CHECKING:
    from jaxtyping import Float


def fm(x: Float[Tensor, "b n d"], *, impl: registry.Impl = "auto") -> Float[Tensor, "b d"]:
    """``y = Σ_{i<j} x_i ⊙ x_j = ½ ((Σ_i x_i)² − Σ_i x_i²)``, in time linear in the number of fields.

    Args:
        impl: which form runs; see :func:`funcrec.kernels.registry.use`.

    Shape: x ``[b, n, d]``, returns ``[b, d]``: not summed over d.

    Raises:
        ShapeError: x is not ``[b, n, d]``.

    Reference: Rendle 2010, Factorization Machines, lemma 3.1; He & Chua 2017, Neural Factorization Machines, eq. 4.
    """
    if x.dim() != 3:
        fix = "funcrec.layers.inputs.stacked makes it of a group vector"
        fail(ShapeError, "fm: input", got=tuple(x.shape), expected="[b, n, d]", fix=fix)
    if registry.use("fm", impl, x, unsupported=registry.fm.unsupported(x)):
        return registry.fm.fm(x)
    total = reduce(x, "b n d -> b d", "sum")
    squares = reduce(x * x, "b n d -> b d", "sum")
    return 0.5 * (total * total - squares)
