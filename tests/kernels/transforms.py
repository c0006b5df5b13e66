"""Every transform of torch as a function of an op: what an op must go through with the reference's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

F = Callable[..., Any]
Tensors = Sequence[Tensor]


def floats(args: Sequence[Any]) -> list[int]:
    """The positions of the arguments to differentiate."""
    return [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.is_floating_point()]


def of_floats(op: F, args: Sequence[Any]) -> F:
    """``op`` as a function of its differentiable arguments."""
    at = floats(args)

    def f(*values: Tensor) -> Any:
        whole = list(args)
        for i, v in zip(at, values, strict=True):
            whole[i] = v
        return op(*whole)

    return f


def outputs(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def loss(f: F) -> F:
    """A scalar whose derivatives see every output with a weight of its own, and second derivatives its curvature.

    The sine is a slow one: of large outputs, a fast one would amplify their rounding beyond any bound.
    """

    def scalar(*values: Tensor) -> Tensor:
        total: Any = 0.0
        for out in outputs(f(*values)):
            weights = torch.cos(torch.arange(out.numel(), device=out.device, dtype=torch.float64)).reshape(out.shape)
            total = total + (torch.sin(0.25 * out) * weights.to(out.dtype)).sum()
        return total

    return scalar


def all_of(values: Tensors) -> tuple[int, ...]:
    return tuple(range(len(values)))


def gradient(f: F, v: Tensors) -> F:
    return grad(loss(f), argnums=all_of(v))


def tangents(v: Tensors) -> tuple[Tensor, ...]:
    """A direction of the same shapes, no multiple of the point."""
    return tuple(torch.cos(3.0 * x + 0.5) for x in v)


def members(v: Tensors, at: int, dims: Sequence[int] | None = None) -> list[Tensor]:
    """Three different values of every argument along dim ``at`` (of those in ``dims``: the others are as they were)."""
    some = range(len(v)) if dims is None else dims
    stack = lambda x: torch.stack([x, 0.5 * x + 0.1, torch.sin(2 * x)], dim=min(at, x.dim()))  # noqa: E731
    return [stack(x) if i in some else x for i, x in enumerate(v)]


def mapped(f: F, v: Tensors, at: int = 0, out: int = 0) -> Any:
    in_dims = tuple(min(at, x.dim()) for x in v)
    return vmap(f, in_dims=in_dims, out_dims=out)(*members(v, at))


def one_mapped(f: F, v: Tensors) -> list[Any]:
    """Each argument mapped by itself, the others shared."""
    results = []
    for i in range(len(v)):
        in_dims = tuple(0 if i == j else None for j in range(len(v)))
        results.append(vmap(f, in_dims=in_dims)(*members(v, 0, [i])))
    return results


def backward(f: F, v: Tensors) -> Any:
    leaves = [x.detach().clone().requires_grad_() for x in v]
    return torch.autograd.grad(loss(f)(*leaves), leaves)


def hvp_forward_over_reverse(f: F, v: Tensors) -> Any:
    return jvp(gradient(f, v), tuple(v), tangents(v))[1]


def hvp_reverse_over_forward(f: F, v: Tensors) -> Any:
    return grad(lambda *w: jvp(loss(f), w, tangents(v))[1], argnums=all_of(v))(*v)


def hvp_reverse_over_reverse(f: F, v: Tensors) -> Any:
    return vjp(gradient(f, v), *v)[1](tangents(v))


def _squares(g: Any) -> Tensor:
    return sum((x.square().sum() for x in g), torch.zeros(()))


def grad_of_grad(f: F, v: Tensors) -> Any:
    return grad(lambda *w: _squares(gradient(f, v)(*w)), argnums=all_of(v))(*v)


def third_order(f: F, v: Tensors) -> Any:
    second = lambda *w: grad(lambda *z: _squares(gradient(f, v)(*z)), argnums=all_of(v))(*w)  # noqa: E731
    return grad(lambda *w: _squares(torch.sin(x) for x in second(*w)), argnums=all_of(v))(*v)


TRANSFORMS: dict[str, Callable[[F, Tensors], Any]] = {
    "forward": lambda f, v: f(*v),
    "backward": backward,
    "grad": lambda f, v: gradient(f, v)(*v),
    "vmap": mapped,
    "vmap_inner_dims": lambda f, v: mapped(f, v, at=1, out=1),
    "vmap_one_argument": one_mapped,
    "vmap_grad": lambda f, v: mapped(gradient(f, v), v),
    "jvp": lambda f, v: jvp(f, tuple(v), tangents(v))[1],
    "vmap_jvp": lambda f, v: vmap(lambda *t: jvp(f, tuple(v), t)[1])(*members(v, 0)),
    "jvp_vmap": lambda f, v: jvp(vmap(f), tuple(members(v, 0)), tuple(members(tangents(v), 0)))[1],
    "grad_grad": grad_of_grad,
    "hvp_forward_over_reverse": hvp_forward_over_reverse,
    "hvp_reverse_over_forward": hvp_reverse_over_forward,
    "hvp_reverse_over_reverse": hvp_reverse_over_reverse,
    "third_order": third_order,
    "jacrev": lambda f, v: jacrev(f, argnums=all_of(v))(*v),
    "jacfwd": lambda f, v: jacfwd(f, argnums=all_of(v))(*v),
    "hessian": lambda f, v: hessian(loss(f), argnums=all_of(v))(*v),
}
COMPILED = ("forward", "grad", "vmap_grad", "jvp", "hvp_forward_over_reverse", "hvp_reverse_over_reverse")
WHOLE_JACOBIANS = ("jacrev", "jacfwd", "hessian", "vmap_one_argument")
