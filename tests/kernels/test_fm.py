"""Laws of the factorization machine's ops: they are each other's adjoints, and all plans of the kernels agree."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec.core.errors import ConfigError
from funcrec.kernels import fm
from funcrec.layers import fm as layer
from tests.layers.cases import noise

sizes = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 4))


def inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


@settings(max_examples=20, deadline=None)
@given(sizes)
def test_the_two_forms_are_adjoint_and_the_layer_is_half_the_diagonal(shape: tuple[int, int, int]) -> None:
    b, _, d = shape
    x, y, c = noise(1, *shape), noise(2, *shape), noise(3, b, d)
    forms = [inner(c, fm.fm2(x, y)), inner(x, fm.fm_spread(c, y)), inner(y, fm.fm_spread(c, x))]
    torch.testing.assert_close(forms[0], forms[1])
    torch.testing.assert_close(forms[0], forms[2])
    torch.testing.assert_close(fm.fm(x), 0.5 * fm.fm2(x, x))
    pairs = [x[:, i] * y[:, j] for i in range(shape[1]) for j in range(shape[1]) if i != j]
    torch.testing.assert_close(fm.fm2(x, y), sum(pairs, torch.zeros_like(c)))


@pytest.mark.parametrize("impl", ["auto", "reference", "triton"])
def test_the_layer_is_the_op(impl: layer.registry.Impl) -> None:
    x = noise(1, 3, 4, 5)
    torch.testing.assert_close(layer.fm(x, impl=impl), fm.fm(x))


def test_too_many_components_fall_back() -> None:
    x = torch.zeros(1, 2, 4097)
    assert layer.fm(x).shape == (1, 4097)
    with pytest.raises(ConfigError, match="4097 components"):
        layer.fm(x, impl="triton")


@pytest.mark.parametrize("held", [0, 320])
def test_every_plan_of_the_kernels(held: int, interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields of a larger batch, and a cotangent of one number a sample."""
    kernels = importlib.import_module("funcrec.kernels.gpu.fm")
    monkeypatch.setattr(kernels, "HELD", held)
    x, y = noise(1, 35, 13, 6).float()[:, 1:12], noise(2, 35, 11, 6).float()
    c = noise(3, 35, 1).float().expand(35, 6)
    near = lambda got, truth: float((got - truth).norm() / truth.norm()) < 1e-6  # noqa: E731
    for plan in kernels.PLANS:
        assert near(kernels.fm(x, plan=plan), fm._fm(x.double()))
        assert near(kernels.fm2(x, y, plan=plan), fm._fm2(x.double(), y.double()))
        assert near(kernels.fm_spread(c, x, plan=plan), fm._fm_spread(c.double(), x.double()))
