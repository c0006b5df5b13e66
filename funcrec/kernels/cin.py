"""A layer of the compressed interaction network: products of columns, weighted, and what its derivatives need.

``bilinear(x, y, W)[b, o, d] = Σ_{h,f} W[o, h, f] x[b, h, d] y[b, f, d]``, and with it the trilinear

    ``<c, bilinear(x, y, W)> = <W, triple(c, x, y)>``,    ``triple(c, x, y)[o, h, f] = Σ_{b,d} c x y``.

Gradients of the first are bilinears with the axes of W in another order, and triples; those of the second are
bilinears: two kernels give derivatives of every order. ``bilinear_vjp`` gives both first gradients at the price of one.
The first layer has x = y: in ``quadratic(x, W) = bilinear(x, x, W)`` both gradients are one, with ``W + Wᵀ`` in place
of W, and ``square(c, x) = triple(c, x, x)`` is symmetric, half of it is enough. ``[b, h, f, d]`` never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor

from funcrec.kernels.primitive import Args, linear_jvp, primitive

Grads = Sequence[Tensor | None]


def _bilinear(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    # Two at a time, the order that leaves the largest of o, h, f out of the array between.
    o, h, f = w.shape
    if o > max(h, f):
        return einsum(einsum(x, y, "b h d, b f d -> b d h f"), w, "b d h f, o h f -> b o d")
    if h >= f:
        return einsum(einsum(x, w, "b h d, o h f -> b d o f"), y, "b d o f, b f d -> b o d")
    return einsum(einsum(y, w, "b f d, o h f -> b d o h"), x, "b d o h, b h d -> b o d")


def _triple(c: Tensor, x: Tensor, y: Tensor) -> Tensor:
    o, h, f = c.shape[1], x.shape[1], y.shape[1]
    if o >= max(h, f):
        return einsum(c, einsum(x, y, "b h d, b f d -> b d h f"), "b o d, b d h f -> o h f")
    if h >= f:
        return einsum(x, einsum(c, y, "b o d, b f d -> b d o f"), "b h d, b d o f -> o h f")
    return einsum(y, einsum(c, x, "b o d, b h d -> b d o h"), "b f d, b d o h -> o h f")


def _to_x(w: Tensor) -> Tensor:
    """The weights of ``c, y -> dx``."""
    return rearrange(w, "o h f -> h o f")


def _to_y(w: Tensor) -> Tensor:
    """The weights of ``c, x -> dy``."""
    return rearrange(w, "o h f -> f o h")


def _both(w: Tensor) -> Tensor:
    """The weights of ``c, x -> dx`` where x stands in both places, and of its tangent."""
    return w + rearrange(w, "o h f -> o f h")


def _bilinear_vjp(c: Tensor, x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return _bilinear(c, y, _to_x(w)), _bilinear(c, x, _to_y(w))


def _quadratic(x: Tensor, w: Tensor) -> Tensor:
    return _bilinear(x, x, w)


def _square(c: Tensor, x: Tensor) -> Tensor:
    return _triple(c, x, x)


def _pair_of_gradients(c: Tensor, x: Tensor, y: Tensor, w: Tensor, need_x: bool, need_y: bool) -> list[Tensor | None]:
    """Gradients of ``<c, bilinear(x, y, w)>`` with respect to x and y, those that are needed."""
    if need_x and need_y:
        return list(bilinear_vjp(c, x, y, w))
    return [bilinear(c, y, _to_x(w)) if need_x else None, bilinear(c, x, _to_y(w)) if need_y else None]


def _bilinear_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> Grads:
    (x, y, w), (c,) = args, cotangents
    return [*_pair_of_gradients(c, x, y, w, needs[0], needs[1]), triple(c, x, y) if needs[2] else None]


def _triple_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> Grads:
    (c, x, y), (u,) = args, cotangents
    return [bilinear(x, y, u) if needs[0] else None, *_pair_of_gradients(c, x, y, u, needs[1], needs[2])]


def _bilinear_vjp_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> Grads:
    (c, x, y, w), (u, v) = args, cotangents
    # <u, dx> + <v, dy> = Σ c W (u y + x v): in x and y it is what the op itself is, at u and v.
    return [
        bilinear(u, y, w) + bilinear(x, v, w) if needs[0] else None,
        *_pair_of_gradients(c, u, v, w, needs[1], needs[2]),
        triple(c, u, y) + triple(c, x, v) if needs[3] else None,
    ]


def _bilinear_vjp_tangent(args: Args, tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    (c, x, y, w), (c_t, x_t, y_t, w_t) = args, tangents
    terms = []
    if c_t is not None:
        terms.append(bilinear_vjp(c_t, x, y, w))
    if x_t is not None or y_t is not None:
        moved = [torch.zeros_like(a) if t is None else t for a, t in ((x, x_t), (y, y_t))]
        terms.append(bilinear_vjp(c, *moved, w))
    if w_t is not None:
        terms.append(bilinear_vjp(c, x, y, w_t))
    d_x, d_y = terms[0]
    for more_x, more_y in terms[1:]:
        d_x, d_y = d_x + more_x, d_y + more_y
    return d_x, d_y


def _quadratic_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> Grads:
    (x, w), (c,) = args, cotangents
    return [bilinear(c, x, _to_x(_both(w))) if needs[0] else None, square(c, x) if needs[1] else None]


def _quadratic_tangent(args: Args, tangents: Sequence[Any]) -> Tensor:
    (x, w), (x_t, w_t) = args, tangents
    moved = None if x_t is None else bilinear(x, x_t, _both(w))
    if w_t is None:
        assert moved is not None
        return moved
    turned = quadratic(x, w_t)
    return turned if moved is None else moved + turned


def _square_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> Grads:
    (c, x), (u,) = args, cotangents
    return [quadratic(x, u) if needs[0] else None, bilinear(c, x, _to_x(_both(u))) if needs[1] else None]


def _square_tangent(args: Args, tangents: Sequence[Any]) -> Tensor:
    (c, x), (c_t, x_t) = args, tangents
    moved = None if x_t is None else _both(triple(c, x, x_t))
    if c_t is None:
        assert moved is not None
        return moved
    turned = square(c_t, x)
    return turned if moved is None else moved + turned


bilinear: Callable[..., Any] = primitive(
    "bilinear(Tensor x, Tensor y, Tensor w) -> Tensor",
    _bilinear,
    "cin:bilinear",
    vjp=_bilinear_rule,
    jvp=linear_jvp(lambda: bilinear, (0, 1, 2)),
    rows=(0, 1),
)
bilinear_vjp = primitive(
    "bilinear_vjp(Tensor c, Tensor x, Tensor y, Tensor w) -> (Tensor, Tensor)",
    _bilinear_vjp,
    "cin:bilinear_vjp",
    vjp=_bilinear_vjp_rule,
    jvp=_bilinear_vjp_tangent,
    rows=(0, 1, 2),
)
triple: Callable[..., Any] = primitive(
    "triple(Tensor c, Tensor x, Tensor y) -> Tensor",
    _triple,
    "cin:triple",
    vjp=_triple_rule,
    jvp=linear_jvp(lambda: triple, (0, 1, 2)),
)
quadratic = primitive(
    "quadratic(Tensor x, Tensor w) -> Tensor",
    _quadratic,
    "cin:quadratic",
    vjp=_quadratic_rule,
    jvp=_quadratic_tangent,
    rows=(0,),
)
square = primitive(
    "square(Tensor c, Tensor x) -> Tensor",
    _square,
    "cin:square",
    vjp=_square_rule,
    jvp=_square_tangent,
)
