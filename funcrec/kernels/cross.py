"""The cross network of DCN in one pass over the rows.

All x_l of a row lie in a plane, of x and of a vector that no row changes: ``x_l = a_l x + s_l``, ``s_l = Σ_{k<l} b_k``.
The network is a recurrence of one number a row,

    a_{l+1} = a_l (1 + x · w_l) + s_l · w_l,    a_0 = 1,    y = a_L x + s_L,

so the dot products of a row with all weights can be taken at once. Its adjoint is a recurrence of one number too: with
``α_L = c · x`` and ``α_l = α_{l+1} (1 + x · w_l)``,

    dx = a_L c + Σ_l γ_l w_l,    dW_l = Σ_b γ_l x + τ_l s_l,    γ_l = α_{l+1} a_l,    τ_l = Σ_b α_{l+1},
    db_k = Σ_b c + Σ_{l>k} τ_l w_l.

The derivatives of the adjoint are its einops form's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from torch import Tensor

from funcrec.kernels.primitive import Args, primitive


def _before(bias: Tensor) -> Tensor:
    """``s_l``: the sum of the biases before layer l."""
    return F.pad(torch.cumsum(bias[:-1], 0), (0, 0, 1, 0))


def _products(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``x · w_l`` of every layer and row, and ``s_l · w_l`` of every layer."""
    p = einsum(weight, x, "l d, b d -> l b").to(x.dtype)  # under autocast the recurrence stays as wide as x
    return p, reduce(_before(bias) * weight, "l d -> l", "sum")


def _cross(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    p, t = _products(x, weight, bias)
    e = p[0]  # a_l - 1, of which 1 + e would keep little in a low precision
    for i in range(1, weight.shape[0]):
        e = e + (1 + e) * p[i] + t[i]
    return x + (rearrange(e, "b -> b 1") * x + bias.sum(0))


def _cross_vjp(c: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p, t = _products(x, weight, bias)
    a = [torch.ones_like(p[0])]
    for i in range(weight.shape[0]):
        a.append(a[i] * (1 + p[i]) + t[i])
    alpha = einsum(c, x, "b d, b d -> b")
    alphas = [alpha]
    for i in reversed(range(1, weight.shape[0])):
        alphas.insert(0, alphas[0] * (1 + p[i]))
    alpha = torch.stack(alphas)
    gamma = torch.stack(a[:-1]) * alpha
    moved = einsum(alpha.sum(1), weight, "l, l d -> l d")
    d_x = rearrange(a[-1], "b -> b 1") * c + einsum(gamma, weight, "l b, l d -> b d")
    d_weight = einsum(gamma, x, "l b, b d -> l d") + einsum(alpha.sum(1), _before(bias), "l, l d -> l d")
    later = F.pad(torch.cumsum(moved[1:].flip(0), 0).flip(0), (0, 0, 0, 1))
    return d_x, d_weight, c.sum(0) + later


def _cross_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    gradients = cross_vjp(cotangents[0], *args)
    return [g if need else None for g, need in zip(gradients, needs, strict=True)]


cross = primitive(
    "cross(Tensor x, Tensor weight, Tensor bias) -> Tensor",
    _cross,
    "cross:cross",
    vjp=_cross_rule,
    rows=(0,),
)
cross_vjp = primitive(
    "cross_vjp(Tensor c, Tensor x, Tensor weight, Tensor bias) -> (Tensor, Tensor, Tensor)",
    _cross_vjp,
    "cross:cross_vjp",
)

MAX_LAYERS = 16
MAX_STATE = 32768
"""Numbers that a program of the backward kernel adds up in registers: layers + 1 rows of d, both padded."""


def unsupported(x: Tensor, layers: int) -> str | None:
    """Why the kernels cannot take this input; None if they can."""
    d = x.shape[1]
    if layers > MAX_LAYERS or _padded(layers + 1) * _padded(d) > MAX_STATE:
        return f"{layers} layers of width {d}, more than the registers of a program hold"
    return None


def _padded(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
