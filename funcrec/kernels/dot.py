"""Dot products of all pairs of fields, with the dense row joined: two bilinear forms, each the other's adjoint.

``pair(x, y)[i<j] = <x_i, y_j> + <y_i, x_j>`` and ``spread(c, y)_i = Σ_j S(c)_ij y_j`` with S(c) the symmetric matrix of
the triangle c, its diagonal doubled. ``<c, pair(x, y)> = <x, spread(c, y)> = <y, spread(c, x)>``: no third form appears
in a derivative of any order. The layer is ``½ pair(x, x)``, whose derivative is one ``spread``, not two: it gets ops of
its own, ``dots`` and ``dots_vjp``, which also take the dense row from where it is and put it behind the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor

from funcrec.kernels.primitive import Args, Op, linear_jvp, primitive


def triangle(n: int, diagonal: bool, device: torch.device) -> Tensor:
    """Where the pairs i < j (or i <= j) stand in a flattened ``[n, n]``, row by row."""
    i, j = torch.triu_indices(n, n, offset=0 if diagonal else 1, device=device)
    return i * n + j


def n_pairs(n: int, diagonal: bool) -> int:
    return n * (n + 1) // 2 if diagonal else n * (n - 1) // 2


def _pair(x: Tensor, y: Tensor, diagonal: bool) -> Tensor:
    gram = einsum(x, y, "b i d, b j d -> b i j")
    gram = rearrange(gram + rearrange(gram, "b i j -> b j i"), "b i j -> b (i j)")
    # A gather, because the backward of gram[:, i, j] is an index_put with accumulate, several times as slow.
    return gram.gather(1, triangle(x.shape[1], diagonal, x.device).expand(x.shape[0], -1))


def _spread(c: Tensor, y: Tensor, diagonal: bool) -> Tensor:
    b, n, _ = y.shape
    upper = c.new_zeros(b, n * n).scatter(1, triangle(n, diagonal, c.device).expand(b, -1), c)
    upper = rearrange(upper, "b (i j) -> b i j", i=n)
    return einsum(upper + rearrange(upper, "b i j -> b j i"), y, "b i j, b j d -> b i d")


def _pair_vjp(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    x, y, diagonal = args
    (c,) = cotangents
    return [spread(c, y, diagonal) if needs[0] else None, spread(c, x, diagonal) if needs[1] else None, None]


def _spread_vjp(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    c, y, diagonal = args
    (u,) = cotangents
    return [pair(u, y, diagonal) if needs[0] else None, spread(c, u, diagonal) if needs[1] else None, None]


pair: Op = primitive(
    "pair(Tensor x, Tensor y, bool diagonal) -> Tensor",
    _pair,
    "dot:pair",
    vjp=_pair_vjp,
    jvp=linear_jvp(lambda: pair, (0, 1)),
    rows=(0, 1),
)
spread: Op = primitive(
    "spread(Tensor c, Tensor y, bool diagonal) -> Tensor",
    _spread,
    "dot:spread",
    vjp=_spread_vjp,
    jvp=linear_jvp(lambda: spread, (0, 1)),
    rows=(0, 1),
)


def _fields(x: Tensor, dense: Tensor | None) -> Tensor:
    return x if dense is None else torch.cat([rearrange(dense, "b d -> b 1 d"), x], dim=1)


def _dots(x: Tensor, dense: Tensor | None, diagonal: bool) -> Tensor:
    fields = _fields(x, dense)
    gram = rearrange(einsum(fields, fields, "b i d, b j d -> b i j"), "b i j -> b (i j)")
    at = triangle(fields.shape[1], diagonal, x.device).expand(x.shape[0], -1)
    products = gram.gather(1, at)
    return products if dense is None else torch.cat([products, dense], dim=1)


def _split(c: Tensor, fields: int, diagonal: bool) -> tuple[Tensor, Tensor]:
    p = n_pairs(fields, diagonal)
    return c[:, :p], c[:, p:]


def _dots_vjp(c: Tensor, x: Tensor, dense: Tensor | None, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the dense row, the second empty where there is none."""
    if dense is None:
        return _spread(c, x, diagonal), c.new_zeros(c.shape[0], 0)
    fields = _fields(x, dense)
    products, tail = _split(c, fields.shape[1], diagonal)
    d_fields = _spread(products, fields, diagonal)
    return d_fields[:, 1:], d_fields[:, 0] + tail


def _dots_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    x, dense, diagonal = args
    d_x, d_dense = dots_vjp(cotangents[0], x, dense, diagonal)
    return [d_x if needs[0] else None, d_dense if needs[1] else None, None]


def _tangent(like: Tensor, t: Tensor | None) -> Tensor:
    return torch.zeros_like(like) if t is None else t


def _dots_tangent(args: Args, tangents: Sequence[Any]) -> Tensor:
    x, dense, diagonal = args
    t = _tangent(x, tangents[0])
    if dense is None:
        return pair(x, t, diagonal)
    s = _tangent(dense, tangents[1])
    return torch.cat([pair(_fields(x, dense), _fields(t, s), diagonal), s], dim=1)


def _dots_vjp_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    c, x, dense, diagonal = args
    u, v = cotangents
    if dense is None:
        return [pair(u, x, diagonal) if needs[0] else None, spread(c, u, diagonal) if needs[1] else None, None, None]
    fields, moved = _fields(x, dense), _fields(u, v)
    products, _ = _split(c, fields.shape[1], diagonal)
    d_c = torch.cat([pair(moved, fields, diagonal), v], dim=1) if needs[0] else None
    d_fields = spread(products.contiguous(), moved, diagonal)
    return [d_c, d_fields[:, 1:] if needs[1] else None, d_fields[:, 0] if needs[2] else None, None]


def _dots_vjp_tangent(args: Args, tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    c, x, dense, diagonal = args
    c_t, x_t = _tangent(c, tangents[0]), _tangent(x, tangents[1])
    if dense is None:
        return spread(c_t, x, diagonal) + spread(c, x_t, diagonal), c.new_zeros(c.shape[0], 0)
    d_x, d_dense = dots_vjp(c_t, x, dense, diagonal)
    products, _ = _split(c, x.shape[1] + 1, diagonal)
    d_fields = spread(products.contiguous(), _fields(x_t, _tangent(dense, tangents[2])), diagonal)
    return d_x + d_fields[:, 1:], d_dense + d_fields[:, 0]


dots = primitive(
    "dots(Tensor x, Tensor? dense, bool diagonal) -> Tensor",
    _dots,
    "dot:dots",
    vjp=_dots_rule,
    jvp=_dots_tangent,
    rows=(0, 1),
)
dots_vjp = primitive(
    "dots_vjp(Tensor c, Tensor x, Tensor? dense, bool diagonal) -> (Tensor, Tensor)",
    _dots_vjp,
    "dot:dots_vjp",
    vjp=_dots_vjp_rule,
    jvp=_dots_vjp_tangent,
    rows=(0, 1, 2),
)
MAX_FIELDS, MAX_DIM = 128, 1024


def unsupported(x: Tensor, dense: Tensor | None = None) -> str | None:
    """Why the kernels cannot take these fields; None if they can."""
    n = x.shape[1] + (dense is not None)
    if n > MAX_FIELDS:
        return f"{n} fields, more than {MAX_FIELDS}"
    if x.shape[2] > MAX_DIM:
        return f"{x.shape[2]} components, more than {MAX_DIM}"
    return None
