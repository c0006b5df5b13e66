"""The sum over all ranks as a differentiable function in two halves, so that work can go on while it is under way.

``Wait.apply(Start.apply(x, group_name))`` is S: ``Σ_ranks x`` forward, the identity backward. What becomes of the sum
must be the same on all ranks, as the update of weights is: then a cotangent already speaks for all of them, and the
identity is right. Forward mode, ``vmap`` and ``torch.compile`` go through both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_OPS = torch.ops._c10d_functional  # the collectives that torch.compile knows


class Start(Function):
    """S without its wait: the result must reach Wait before anything reads it."""

    @staticmethod
    def forward(flat: Tensor, name: str) -> Tensor:
        return _OPS.all_reduce(flat.contiguous(), "sum", name)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return d, None

    @staticmethod
    def jvp(ctx: Any, flat: Tensor, name: None) -> Tensor:
        return Wait.apply(Start.apply(flat, ctx.group))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, flat: Tensor, name: str) -> tuple[Tensor, int]:
        return Start.apply(flat, name), in_dims[0]


class Wait(Function):
    """The other half of S: the same numbers, once they are there."""

    @staticmethod
    def forward(flat: Tensor) -> Tensor:
        return _OPS.wait_tensor(flat)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return d

    @staticmethod
    def jvp(ctx: Any, flat: Tensor) -> Tensor:
        return flat.view_as(flat)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, flat: Tensor) -> tuple[Tensor, int]:
        return Wait.apply(flat), in_dims[0]
