"""A WuKong layer around its MLP: the products of the factorization machine before it, the mixing and the norm behind.

``products(x, W) = X (Xᵀ W)`` reads the fields once and never makes the compressed fields. ``mix(x, f, W, R, γ, β)`` is
``LN([f; WᵀX] + RᵀX)``, with X itself in place of ``RᵀX`` where R is None: no compressed, concatenated or summed fields
in memory. Neither family closes under differentiation, so each has a fused reverse op of first order, whose own
derivatives are those of the einops forms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, reduce
from torch import Tensor

from funcrec.kernels.primitive import Args, primitive


def _products(x: Tensor, weight: Tensor) -> Tensor:
    """x ``[b, n, d]``, weight ``[n, k]``; returns ``[b, n, k]``."""
    return einsum(x, einsum(x, weight, "b n d, n k -> b k d"), "b n d, b k d -> b n k")


def _products_vjp(c: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    compressed = einsum(x, weight, "b n d, n k -> b k d")
    d_compressed = einsum(c, x, "b n k, b n d -> b k d")
    d_x = einsum(c, compressed, "b n k, b k d -> b n d") + einsum(d_compressed, weight, "b k d, n k -> b n d")
    return d_x, einsum(x, d_compressed, "b n d, b k d -> n k")


def _products_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    d_x, d_weight = products_vjp(cotangents[0], *args)
    return [d_x if needs[0] else None, d_weight if needs[1] else None]


products = primitive(
    "wukong_products(Tensor x, Tensor weight) -> Tensor",
    _products,
    "wukong_products:products",
    vjp=_products_rule,
    rows=(0,),
)
products_vjp = primitive(
    "wukong_products_vjp(Tensor c, Tensor x, Tensor weight) -> (Tensor, Tensor)",
    _products_vjp,
    "wukong_products:products_vjp",
)


def _normal(v: Tensor) -> tuple[Tensor, Tensor]:
    """Normalized rows and the inverse of their deviations, in float32 at least."""
    # Plain operations: the gradient of the jvp of torch's layer norm is wrong (torch 2.13), and silently so.
    wide = v.float() if v.dtype in (torch.bfloat16, torch.float16) else v
    centred = wide - reduce(wide, "b m d -> b m 1", "mean")
    inverse = torch.rsqrt(reduce(centred.square(), "b m d -> b m 1", "mean") + 1e-5)
    return centred * inverse, inverse


def _mix(x: Tensor, fmb: Tensor, lcb: Tensor, residual: Tensor | None, scale: Tensor, shift: Tensor) -> Tensor:
    """x ``[b, n, d]``, fmb ``[b, f, d]``, lcb ``[n, l]``, residual ``[n, f + l]``, scale, shift ``[d]``."""
    fields = torch.cat([fmb, einsum(x, lcb, "b n d, n m -> b m d")], dim=1)
    fields = fields + (x if residual is None else einsum(x, residual, "b n d, n m -> b m d"))
    return (_normal(fields)[0] * scale + shift).to(x.dtype)


def _mix_vjp(
    c: Tensor, x: Tensor, fmb: Tensor, lcb: Tensor, residual: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, of the fields before the norm ``[b, f + l, d]``, whose first f are fmb's, of lcb, residual (empty
    where there is none), scale and shift."""
    fields = torch.cat([fmb, einsum(x, lcb, "b n d, n m -> b m d")], dim=1)
    fields = fields + (x if residual is None else einsum(x, residual, "b n d, n m -> b m d"))
    normal, inverse = _normal(fields)
    wide = c.to(normal.dtype)
    d_scale, d_shift = (reduce(v, "b m d -> d", "sum").to(scale.dtype) for v in (wide * normal, wide))
    g = wide * scale
    d_fields = g - reduce(g, "b m d -> b m 1", "mean") - normal * reduce(g * normal, "b m d -> b m 1", "mean")
    d_fields = (d_fields * inverse).to(x.dtype)
    d_lcb_fields = d_fields[:, fmb.shape[1] :]
    d_x = einsum(d_lcb_fields, lcb, "b m d, n m -> b n d")
    if residual is None:
        d_x, d_residual = d_x + d_fields, x.new_zeros(0, 0)
    else:
        d_x = d_x + einsum(d_fields, residual, "b m d, n m -> b n d")
        d_residual = einsum(x, d_fields, "b n d, b m d -> n m")
    return d_x, d_fields, einsum(x, d_lcb_fields, "b n d, b m d -> n m"), d_residual, d_scale, d_shift


def _mix_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    d_x, d_fields, *rest = mix_vjp(cotangents[0], *args[:-1])
    gradients = (d_x, d_fields[:, : args[1].shape[1]], *rest)
    return [g if need else None for g, need in zip(gradients, needs, strict=True)]


mix = primitive(
    "wukong_mix(Tensor x, Tensor fmb, Tensor lcb, Tensor? residual, Tensor scale, Tensor shift) -> Tensor",
    _mix,
    "wukong_mix:mix",
    vjp=_mix_rule,
    rows=(0, 1),
)
mix_vjp = primitive(
    "wukong_mix_vjp(Tensor c, Tensor x, Tensor fmb, Tensor lcb, Tensor? residual, Tensor scale) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _mix_vjp,
    "wukong_mix:mix_vjp",
)
MAX_FIELDS, MAX_DIM, MAX_COMPRESSED, LEAST_NUMBERS = 128, 128, 64, 4096


def unsupported(x: Tensor, compress: Tensor) -> str | None:
    """Why the kernels cannot take these products; None if they can."""
    n, d = x.shape[1], x.shape[2]
    if n > MAX_FIELDS:
        return f"{n} fields, more than {MAX_FIELDS}"
    if d > MAX_DIM:
        return f"{d} components, more than {MAX_DIM}"
    if compress.shape[1] > MAX_COMPRESSED:
        return f"k = {compress.shape[1]}, more than {MAX_COMPRESSED}"
    return None


def unsupported_layer(x: Tensor, compress: Tensor, n_out: int, residual: Tensor | None) -> str | None:
    """Why the kernels cannot take this layer; None if they can."""
    if n_out > MAX_FIELDS:
        return f"{n_out} fields to make, more than {MAX_FIELDS}"
    if x.dtype == torch.float32 and residual is not None and max(x.shape[1], n_out) * x.shape[2] > MAX_DIM * 64:
        return "a residual matrix in float32 over more than 64 fields of 128 components: no room on the chip"
    return unsupported(x, compress)


def slower(x: Tensor) -> str | None:
    """Why the einops form is the faster one; None if it is not."""
    # Measured on an H100: 128 x 128 takes 0.77 of the einops form's time, 27 x 16 takes 1.08.
    small = x.shape[1] * x.shape[2] < LEAST_NUMBERS
    return f"less than {LEAST_NUMBERS} numbers a sample, for which launches cost more than memory" if small else None
