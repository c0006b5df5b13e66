"""Laws of the cross network's op: the recurrence it stands for, all plans of its kernels, and what it leaves alone."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec.core.errors import ConfigError
from funcrec.core.random import key
from funcrec.core.tree import tree
from funcrec.kernels import cross
from funcrec.layers import cross as layer
from tests.layers.cases import F64, jitter, noise


def slow(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer by layer, as the paper writes it."""
    y = x
    for w, b in zip(weight, bias, strict=True):
        y = x * (y @ w)[:, None] + b + y
    return y


def arguments(b: int, d: int, layers: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c, x, weight, bias."""
    return noise(1, b, d), noise(2, b, d), noise(3, layers, d), noise(4, layers, d)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5))
def test_the_recurrence_of_a_number_is_that_of_the_vectors(b: int, d: int, layers: int) -> None:
    c, *args = arguments(b, d, layers)
    expected, pull = torch.func.vjp(slow, *args)[:2]
    torch.testing.assert_close(cross.cross(*args), expected)
    for got, gradient in zip(cross.cross_vjp(c, *args), pull(c), strict=True):
        torch.testing.assert_close(got, gradient)


@pytest.mark.parametrize("impl", ["auto", "reference", "triton"])
def test_the_layer_is_the_op_of_its_stacked_parameters(impl: layer.registry.Impl) -> None:
    params = jitter(layer.init_cross(key(0), 5, 3, dtype=F64))
    x = noise(1, 4, 5)
    stacked = [torch.stack([params[str(i), name] for i in range(3)]) for name in ("weight", "bias")]
    torch.testing.assert_close(layer.cross(params, x, impl=impl), slow(x, *stacked))


def test_under_autocast_the_row_keeps_its_precision() -> None:
    """Only products with weights are rounded: with small weights the result is as near as they are small."""
    params = tree({str(i): {"weight": 1e-3 * noise(i, 5).float(), "bias": noise(9 + i, 5).float()} for i in range(3)})
    x = noise(1, 4, 5).float()
    exact = layer.cross(params, x)
    for impl in ("reference", "triton"):
        with torch.autocast("cpu", torch.bfloat16):
            y = layer.cross(params, x, impl=impl)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, exact, rtol=1e-4, atol=1e-4)


def test_what_the_registers_do_not_hold_falls_back() -> None:
    assert cross.unsupported(torch.empty(0, 3456), 3) is None
    assert cross.unsupported(torch.empty(0, 8192), 3) is None
    assert "width 8193" in str(cross.unsupported(torch.empty(0, 8193), 3))
    assert "17 layers" in str(cross.unsupported(torch.empty(0, 2), 17))
    params = layer.init_cross(key(0), 2, 17)
    with pytest.raises(ConfigError, match="17 layers"):
        layer.cross(params, torch.zeros(1, 2), impl="triton")


def test_every_plan_of_the_kernels(interpreter: None) -> None:
    """Rows of a wider matrix, a cotangent of one number a row, and a result that no plan changes beyond rounding."""
    kernels = importlib.import_module("funcrec.kernels.gpu.cross")
    c, x, weight, bias = arguments(19, 37, 3)
    args = [(weight * 0.2).float(), bias.float()]
    x, c = x.float()[:, 2:35], c.float()[:, :1].expand(19, 33)
    args = [a[:, :33] for a in args]
    wide = [a.double() for a in (x, *args)]
    expected, pull = torch.func.vjp(slow, *wide)[:2]
    near = lambda got, truth: float((got - truth).norm() / truth.norm()) < 1e-6  # noqa: E731
    for plan in kernels.FORWARD:
        assert near(kernels.cross(x, *args, plan=plan), expected)
    for plan in kernels.BACKWARD:
        got = kernels.cross_vjp(c, x, *args, plan=plan)
        assert all(near(g, truth) for g, truth in zip(got, pull(c.double()), strict=True))
