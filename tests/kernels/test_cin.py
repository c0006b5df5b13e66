"""Laws of the CIN ops: the slow sums, adjointness, polarization, tiles that hold, and every plan of every kernel."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funcrec.core.random import key
from funcrec.core.tree import leaves, paths, unflatten
from funcrec.kernels import cin
from funcrec.layers import cin as layer
from tests.layers.cases import F64, jitter, noise

small = st.integers(1, 4)


def arguments(b: int, d: int, o: int, h: int, f: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c, x, y, w."""
    return noise(1, b, o, d), noise(2, b, h, d), noise(3, b, f, d), noise(4, o, h, f)


def slow(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    columns = [
        sum(w[o, h, f] * x[:, h] * y[:, f] for h in range(w.shape[1]) for f in range(w.shape[2]))
        for o in range(w.shape[0])
    ]
    return torch.stack(columns, dim=1)  # type: ignore[arg-type]


@given(st.integers(0, 3), small, small, small, small)
def test_the_forms_are_the_slow_sum_and_its_gradients(b: int, d: int, o: int, h: int, f: int) -> None:
    c, x, y, w = arguments(b, d, o, h, f)
    out, pull = torch.func.vjp(slow, x, y, w)[:2]
    torch.testing.assert_close(cin.bilinear(x, y, w), out)
    for got, expected in zip((*cin.bilinear_vjp(c, x, y, w), cin.triple(c, x, y)), pull(c), strict=True):
        torch.testing.assert_close(got, expected)


@given(st.integers(1, 3), small, small, small)
def test_the_quadratic_is_the_bilinear_at_one_point(b: int, d: int, o: int, h: int) -> None:
    c, x, y, w = arguments(b, d, o, h, h)
    torch.testing.assert_close(cin.quadratic(x, w), cin.bilinear(x, x, w))
    torch.testing.assert_close(cin.square(c, x), cin.triple(c, x, x))
    both = cin.bilinear(x, y, w) + cin.bilinear(y, x, w)
    torch.testing.assert_close(cin.quadratic(x + y, w) - cin.quadratic(x, w) - cin.quadratic(y, w), both)


@pytest.fixture
def kernels(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The kernels' files; what they do not write is NaN."""
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    names = ("tiles", "products", "contract", "triple")
    return SimpleNamespace(**{n: importlib.import_module(f"funcrec.kernels.gpu.cin_{n}") for n in names})


def powers_of_two(*widths: int) -> bool:
    return all(w & (w - 1) == 0 for w in widths)


def test_tiles_hold_their_columns(kernels: SimpleNamespace) -> None:
    for n in range(1, 600):
        cut = kernels.tiles.chunks(n, 40)
        assert cut.width <= min(40, cut.f0 + cut.f1)
        assert (cut.number - 1) * cut.width < n <= cut.number * cut.width
        assert powers_of_two(cut.f0, cut.f1)
        assert cut.f0 + cut.f1 < 2 * max(8, cut.width)
    assert kernels.tiles.chunks(39, 40) == (1, 39, 32, 8)
    for n in range(1, 257):
        for most in (1, 2, 3):
            parts = kernels.tiles.parts(n, most)
            assert powers_of_two(*parts)
            assert list(parts) == sorted(parts, reverse=True)
            assert n <= sum(parts) < 2 * max(32, n)
            assert sum(p > 0 for p in parts) <= most
    assert kernels.tiles.parts(200, 3) == (128, 64, 32)


def near(got: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    return float((got.double() - expected).norm() / expected.norm()) < (1e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_plan_of_the_kernels(kernels: SimpleNamespace, dtype: torch.dtype) -> None:
    """Fields of a wider batch, weights of another order of axes, and a result that no plan changes beyond rounding."""
    c, x, y, w = (a.to(dtype) for a in arguments(7, 5, 20, 11, 21))
    y, w = y[:, 2:], w.permute(1, 2, 0).contiguous().permute(2, 0, 1)[:, :, :19]
    wide = [a.double() for a in (c, x, y, w)]
    expected = cin._bilinear(*wide[1:])
    d_x, d_y = cin._bilinear_vjp(*wide)
    for plan in kernels.products.PLANS[dtype.itemsize]:
        assert near(kernels.products.products(x, y, w, plan=plan), expected, dtype)
    for plan in kernels.contract.PLANS[dtype.itemsize]:
        got_x, got_y = kernels.contract.contract(c, x, y, w, plan=plan)
        assert near(got_x, d_x, dtype)
        assert near(got_y, d_y, dtype)
        assert near(kernels.contract.contract(c, None, y, w, plan=plan)[0], d_x, dtype)
    for plan in kernels.triple.PLANS[dtype.itemsize]:
        plan = plan._replace(programs=8)
        assert near(kernels.triple.triple(c, x, y, plan=plan), cin._triple(*wide[:3]), dtype)
        d_w = cin._triple(wide[0], wide[1], wide[1])
        assert near(kernels.triple.triple(c, x, x, symmetric=True, plan=plan), d_w, dtype)


def test_fields_of_any_strides(kernels: SimpleNamespace) -> None:
    """Some of the components, components before columns, and the cotangent of a sum over components."""
    c, x, y, w = (a.float() for a in arguments(3, 6, 4, 5, 3))
    x, y, c = x[:, :, :3], y[:, :, :3].mT.contiguous().mT, c[:, :, :3].contiguous()[:, :, :1].expand(3, 4, 3)
    wide = [a.double() for a in (c, x, y, w)]
    assert near(kernels.products.products(x, y, w), cin._bilinear(*wide[1:]), torch.float32)
    assert near(kernels.triple.triple(c, x, y), cin._triple(*wide[:3]), torch.float32)
    for got, expected in zip(kernels.contract.contract(c, x, y, w), cin._bilinear_vjp(*wide), strict=True):
        assert near(got, expected, torch.float32)


def test_columns_beyond_a_chunk(kernels: SimpleNamespace) -> None:
    _, x, y, w = (a.float() for a in arguments(2, 3, 3, 5, 83))
    expected = cin._bilinear(x.double(), y.double(), w.double())
    assert near(kernels.products.products(x, y, w), expected, torch.float32)
    assert near(kernels.products.products(y, x, w.transpose(1, 2)), expected, torch.float32)


def made(sizes: tuple[int, ...], dtype: torch.dtype = F64) -> tuple[Any, list[Tensor], Tensor]:
    params = jitter(layer.init_cin(key(0), 4, sizes, dtype=F64))
    return paths(params), [v.to(dtype) for v in leaves(params)], noise(1, 3, 4, 5).to(dtype)


@pytest.mark.parametrize("sizes", [(3,), (5, 2), (2, 6, 3)])
def test_both_forms_of_the_layer_agree(sizes: tuple[int, ...]) -> None:
    names, values, x = made(sizes)
    forms: list[Any] = [
        torch.func.vjp(lambda x, *v, impl=impl: layer.cin(unflatten(names, v), x, impl=impl), x, *values)
        for impl in ("reference", "triton")
    ]
    (expected, pull), (got, pull_op) = forms
    torch.testing.assert_close(got, expected)
    for a, b in zip(pull_op(torch.cos(got)), pull(torch.cos(got)), strict=True):
        torch.testing.assert_close(a, b)


def test_both_forms_of_the_layer_agree_under_autocast() -> None:
    names, values, x = made((5, 4, 3), torch.float32)
    exact = layer.cin(unflatten(names, values), x)
    for impl in ("reference", "triton"):
        with torch.autocast("cpu", torch.bfloat16):
            y = layer.cin(unflatten(names, values), x, impl=impl)
        assert y.dtype == torch.float32
        assert 1e-4 < float((y - exact).norm() / exact.norm()) < 2e-2


def test_a_batch_too_large_for_32_bits_is_taken_in_halves(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from funcrec.kernels.gpu import cin as launchers

    monkeypatch.setattr(launchers, "MAX_ROWS", 5)
    c, x, y, w = (noise(i, *s).float() for i, s in enumerate([(5, 2, 3), (5, 4, 3), (5, 3, 3), (2, 4, 3)]))
    square = noise(9, 2, 4, 4).float()
    torch.testing.assert_close(launchers.bilinear(x, y, w), cin._bilinear(x, y, w))
    torch.testing.assert_close(launchers.bilinear_vjp(c, x, y, w), cin._bilinear_vjp(c, x, y, w))
    torch.testing.assert_close(launchers.triple(c, x, y), cin._triple(c, x, y))
    torch.testing.assert_close(launchers.square(c, x), cin._square(c, x))
    torch.testing.assert_close(launchers.quadratic(x, square), cin._quadratic(x, square))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_array_of_all_products_exists() -> None:
    """Forward and backward in less memory than a third of ``[b, h, f, d]``, the array of the naive form."""
    b, d, f, sizes = 16384, 16, 39, (64, 64, 64)
    params = layer.init_cin(key(0), f, sizes, dtype=torch.bfloat16).to("cuda")
    values = [v.requires_grad_() for v in leaves(params)]
    x = noise(1, b, f, d).to("cuda", torch.bfloat16).requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = layer.cin(unflatten(paths(params), values), x, impl="triton")
    torch.autograd.grad(y.float().square().sum(), [x, *values])
    assert torch.cuda.max_memory_allocated() - before < b * sizes[0] * f * d * 2 / 3
