"""Target attention of DIN in one op: a sample's steps are scored by a net of two hidden layers, and summed by it.

``g_t = f(a + B k_t + C (q ⊙ k_t))``, ``h_t = f(W_2 g_t + b_2)``, ``s_t = <w_3, h_t> + b_3`` and ``y = Σ_t w_t k_t``
with ``w = softmax(s)`` over the sample's steps, or ``w = s``. As ``B k + C (q ⊙ k) = (B + C diag(q)) k``, the first
layer is one linear map of a sample's steps, and B, C and q get their gradients from that of the map,
``G = Σ_t ġ_t k_tᵀ``: they are ``Σ_samples G``, ``Σ_samples G diag(q)`` and ``(C ⊙ G)ᵀ 1``. No step leaves anything in
memory but its own gradient.

Histories are flat, so that padded and jagged ones are the same: sample b has the rows ``starts[b]`` to ``starts[b] +
lengths[b]`` of ``keys``. Starts ascend, and no row belongs to two samples. Rows that belong to none are not read, and
their gradient is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.kernels import din_reference as reference
from funcrec.kernels.primitive import Args, primitive, vjp_of

_ARGUMENTS = (
    "Tensor a, Tensor q, Tensor keys, Tensor starts, Tensor lengths, Tensor by_key, Tensor by_product, "
    "Tensor w2, Tensor b2, Tensor w3, Tensor b3, str activation, bool softmax"
)
_DIFFERENTIABLE = (0, 1, 2, 5, 6, 7, 8, 9, 10)  # positions in _ARGUMENTS of what din_vjp returns, in its order


def _din_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    gradients = dict(zip(_DIFFERENTIABLE, din_vjp(cotangents[0], *args), strict=True))
    return [gradients[i] if needs[i] and i in gradients else None for i in range(len(args))]


din = primitive(f"din({_ARGUMENTS}) -> Tensor", reference.din, "din:din", vjp=_din_rule)
din_vjp = primitive(
    f"din_vjp(Tensor c, {_ARGUMENTS}) -> ({', '.join(['Tensor'] * len(_DIFFERENTIABLE))})",
    reference.din_vjp,
    "din_vjp:din_vjp",
    vjp=vjp_of(reference.din_vjp),
)
MAX_DIM, MAX_HIDDEN = 128, 128


def unsupported(keys: Tensor, hidden: Sequence[int], activation: str, between: Sequence[str] = ()) -> str | None:
    """Why the kernels cannot take such an attention; None if they can.

    Args:
        hidden: widths of the hidden layers.
        activation: its name in lower case.
        between: what else stands between the layers: norms, dropout.
    """
    dim = keys.shape[-1]
    if len(hidden) != 2:
        return f"{len(hidden)} hidden layers, not 2"
    sizes = f"steps of {dim} components, hidden layers of {tuple(hidden)}"
    if max(hidden) > MAX_HIDDEN or dim > MAX_DIM:
        return f"{sizes}, more than {MAX_DIM} and {MAX_HIDDEN}"
    if keys.dtype == torch.float32 and dim > 64 and hidden[0] > 96 and hidden[1] > 64:
        return f"{sizes}, whose weights in float32 do not fit into shared memory"
    if activation not in reference.ACTIVATIONS:
        return f"activation {activation}, not one of {sorted(reference.ACTIVATIONS)}"
    return f"{' and '.join(between)} between the layers" if between else None
