"""The interaction of a factorization machine: a bilinear form and its adjoint, closed under differentiation.

``fm2(x, y) = (Σ_i x_i)(Σ_i y_i) − Σ_i x_i y_i`` and ``fm_spread(c, y)_i = c (Σ_j y_j − y_i)``, componentwise.
``<c, fm2(x, y)> = <x, fm_spread(c, y)> = <y, fm_spread(c, x)>``: no third form appears in a derivative of any order.
The layer is ``fm(x) = ½ fm2(x, x)``, whose derivative is one ``fm_spread``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from einops import rearrange, reduce
from torch import Tensor

from funcrec.kernels.primitive import Args, linear_jvp, primitive


def _sum(x: Tensor) -> Tensor:
    return reduce(x, "b n d -> b d", "sum")


def _fm2(x: Tensor, y: Tensor) -> Tensor:
    return _sum(x) * _sum(y) - _sum(x * y)


def _fm(x: Tensor) -> Tensor:
    total = _sum(x)
    return 0.5 * (total * total - _sum(x * x))


def _fm_spread(c: Tensor, y: Tensor) -> Tensor:
    return rearrange(c, "b d -> b 1 d") * (reduce(y, "b n d -> b 1 d", "sum") - y)


def _fm2_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    x, y = args
    (c,) = cotangents
    return [fm_spread(c, y) if needs[0] else None, fm_spread(c, x) if needs[1] else None]


def _fm_spread_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    c, y = args
    (u,) = cotangents
    return [fm2(u, y) if needs[0] else None, fm_spread(c, u) if needs[1] else None]


def _fm_rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    return [fm_spread(cotangents[0], args[0])]


def _fm_tangent(args: Args, tangents: Sequence[Any]) -> Tensor:
    return fm2(args[0], tangents[0])


fm2: Callable[..., Any] = primitive(
    "fm2(Tensor x, Tensor y) -> Tensor",
    _fm2,
    "fm:fm2",
    vjp=_fm2_rule,
    jvp=linear_jvp(lambda: fm2, (0, 1)),
    rows=(0, 1),
)
fm_spread: Callable[..., Any] = primitive(
    "fm_spread(Tensor c, Tensor y) -> Tensor",
    _fm_spread,
    "fm:fm_spread",
    vjp=_fm_spread_rule,
    jvp=linear_jvp(lambda: fm_spread, (0, 1)),
    rows=(0, 1),
)
fm: Callable[..., Any] = primitive(
    "fm(Tensor x) -> Tensor",
    _fm,
    "fm:fm",
    vjp=_fm_rule,
    jvp=_fm_tangent,
    rows=(0,),
)
MAX_DIM = 4096


def unsupported(x: Tensor) -> str | None:
    """Why the kernels cannot take these fields; None if they can."""
    return f"{x.shape[2]} components, more than {MAX_DIM}" if x.shape[2] > MAX_DIM else None
