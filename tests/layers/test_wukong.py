"""Laws of WuKong's parts: linear compression, factorization machine block, and the layer that holds them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.init import Constant
from funcrec.core.random import key
from funcrec.core.tree import count, leaves, paths
from funcrec.layers.fm_block import fm_block, init_fm_block
from funcrec.layers.linear_compress import init_linear_compress, linear_compress
from funcrec.layers.mlp import MLPConfig, mlp_parameter_count
from funcrec.layers.wukong_layer import WuKongLayerConfig, init_wukong_layer, wukong_layer
from tests.layers.cases import F64, jitter, noise

sizes = st.integers(1, 4)
TANH = MLPConfig(hidden_units=(4, 3), activation="nn.Tanh")
LINEAR = MLPConfig(hidden_units=(4,), activation=None)
BN = MLPConfig(hidden_units=(4,), use_bn=True)


@given(sizes, sizes, sizes)
def test_compression_is_the_slow_sum(n: int, m: int, d: int) -> None:
    params, x = init_linear_compress(key(0), n, m, dtype=F64), noise(1, 3, n, d)
    y = linear_compress(params, x)
    assert y.shape == (3, m, d)
    for j in range(m):
        slow = sum((x[:, i] * params["weight"][i, j] for i in range(n)), torch.zeros(3, d, dtype=F64))
        torch.testing.assert_close(y[:, j], slow)


@given(sizes, sizes, sizes, sizes)
def test_compression_commutes_with_maps_of_the_embedding_dim(n: int, m: int, d: int, e: int) -> None:
    params, x, change = init_linear_compress(key(0), n, m, dtype=F64), noise(1, 3, n, d), noise(2, d, e)
    torch.testing.assert_close(linear_compress(params, x @ change), linear_compress(params, x) @ change)


def normalized(p, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return p["weight"] * centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) + p["bias"]


def slow_fm_block(p, x: Tensor, norm: bool) -> Tensor:
    """``X Xᵀ W`` with the whole Gram matrix, then tanh layers and the output layer."""
    products = torch.stack([(row @ row.T @ p["compress", "weight"]).flatten() for row in x])
    y = normalized(p["norm"], products) if norm else products
    for i in range(2):
        layer = p["mlp", str(i), "linear"]
        y = torch.tanh(y @ layer["weight"].T + layer["bias"])
    y = y @ p["out", "weight"].T + p["out", "bias"]
    return y.reshape(x.shape[0], -1, x.shape[2])


@given(sizes, sizes, sizes, sizes, st.booleans())
def test_the_fm_block_is_the_gram_matrix_written_out(n: int, m: int, d: int, k: int, norm: bool) -> None:
    params, state = init_fm_block(key(0), d, n, m, k, TANH, norm=norm, dtype=F64)
    params, x = jitter(params), noise(1, 3, n, d)
    y, _ = fm_block(params, x, state, TANH, m)
    assert y.shape == (3, m, d)
    torch.testing.assert_close(y, slow_fm_block(params, x, norm))
    given_products, _ = fm_block(params, x, state, TANH, m, compressed=linear_compress(params["compress"], x))
    torch.testing.assert_close(given_products, y)


@given(sizes, st.integers(2, 4), st.integers(0, 100))
def test_the_fm_block_sees_angles_and_lengths_only(n: int, d: int, seed: int) -> None:
    """A rotation of the embedding space changes no dot product."""
    params, state = init_fm_block(key(0), d, n, 2, 3, TANH, dtype=F64)
    rotation = torch.linalg.qr(noise(seed, d, d))[0]
    x = noise(1, 3, n, d)
    y, turned = (fm_block(params, v, state, TANH, 2)[0] for v in (x, x @ rotation))
    torch.testing.assert_close(turned, y)


@given(st.integers(1, 5), sizes, sizes, sizes, st.integers(1, 3))
@example(3, 1, 2, 2, 2)  # as many fields as before: the residual is the input itself
@example(2, 1, 2, 2, 2)
def test_a_layer_is_its_formula_with_the_fm_block_first(n: int, lcb: int, fmb: int, k: int, d: int) -> None:
    config = WuKongLayerConfig(lcb=lcb, fmb=fmb, k=k, mlp=TANH)
    params, state = init_wukong_layer(key(0), d, n, config, dtype=F64)
    params, x = jitter(params), noise(1, 3, n, d)
    assert ("residual" in params.keys()) == (n != lcb + fmb), "a matrix only where the number of fields changes"
    residual = torch.einsum("bnd,nm->bmd", x, params["residual", "weight"]) if "residual" in params.keys() else x
    both = torch.cat([slow_fm_block(params["fmb"], x, True), linear_compress(params["lcb"], x)], dim=1)
    y, _ = wukong_layer(params, x, state, config)
    assert y.shape == (3, fmb + lcb, d)
    torch.testing.assert_close(y, normalized(params["norm"], both + residual))


def chain(n_layers: int, x: Tensor) -> Tensor:
    """Layers without norms, with linear MLPs: polynomials of the input."""
    config = WuKongLayerConfig(lcb=2, fmb=2, k=2, mlp=LINEAR, norm=False)
    n = x.shape[1]
    for i in range(n_layers):
        params, state = init_wukong_layer(key(i), x.shape[2], n, config, dtype=F64)
        x, _ = wukong_layer(params, x, state, config)
        n = config.output_fields
    return x


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("n", [3, 4])
def test_layer_l_has_degree_two_to_the_l(n_layers: int, n: int) -> None:
    """In the fields of its factorization machine; those of its linear compression have the degree of its input."""
    start, direction = noise(1, 1, n, 3), noise(2, 1, n, 3)
    degree = 2**n_layers
    t = torch.cos(math.pi * (torch.arange(degree + 5, dtype=F64) + 0.5) / (degree + 5))
    values = chain(n_layers, start + t[:, None, None] * direction).flatten(1)
    fit = np.abs(np.polynomial.chebyshev.chebfit(t.numpy(), values.numpy(), degree + 4))
    scale = fit.max(0)
    fmb, lcb = np.hsplit(fit, 2)
    for coefficients, reached in ((fmb, degree), (lcb, degree // 2)):
        scale = coefficients.max(0)
        assert (coefficients[reached] > 1e-6 * scale).all()
        assert (coefficients[reached + 1 :] < 1e-10 * scale).all()


def test_running_statistics_of_the_mlp_move_in_training_only() -> None:
    config = WuKongLayerConfig(lcb=1, fmb=2, k=2, mlp=BN)
    params, state = init_wukong_layer(key(0), 2, 3, config, dtype=F64)
    x = noise(1, 5, 3, 2)
    before = [v.clone() for v in leaves(state)]
    _, same = wukong_layer(params, x, state, config)
    _, moved = wukong_layer(params, x, state, config, train=True)
    assert paths(same) == paths(moved) == paths(state)
    assert all(torch.equal(a, b) for a, b in zip(leaves(same), before, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(leaves(moved), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), before, strict=True))


@given(st.integers(1, 5), sizes, sizes, sizes, sizes, st.booleans())
def test_parameter_count(n: int, lcb: int, fmb: int, k: int, d: int, norm: bool) -> None:
    config = WuKongLayerConfig(lcb=lcb, fmb=fmb, k=k, mlp=TANH, norm=norm)
    params, _ = init_wukong_layer(key(0), d, n, config)
    block = n * k + mlp_parameter_count(n * k, TANH) + (3 + 1) * fmb * d + norm * 2 * n * k
    residual = n * (lcb + fmb) if n != lcb + fmb else 0
    assert count(params) == block + n * lcb + residual + norm * 2 * d


def test_initial_laws_read_the_fan_in_off_the_outputs() -> None:
    config = WuKongLayerConfig(lcb=4, fmb=2, k=3, mlp=TANH)
    params, _ = init_wukong_layer(key(0), 2, 200, config)
    for path, n_out in ((("lcb",), 4), (("fmb", "compress"), 3), (("residual",), 6)):
        weight, bound = params[(*path, "weight")], math.sqrt(6 / n_out)
        assert weight.shape == (200, n_out)
        assert 0.97 * bound < weight.abs().max() <= bound
    assert not torch.equal(params["lcb", "weight"][:, :3], params["fmb", "compress", "weight"])
    options: dict[str, Any] = {"compress": Constant(2.0), "weight": Constant(3.0), "bias_init": Constant(4.0)}
    params, _ = init_wukong_layer(key(0), 2, 5, WuKongLayerConfig(lcb=1, fmb=1, k=1, mlp=TANH, **options))
    for path in (("lcb",), ("fmb", "compress"), ("residual",)):
        assert (params[(*path, "weight")] == 2).all()
    assert (params["fmb", "out", "weight"] == 3).all()
    assert (params["fmb", "out", "bias"] == 4).all()


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_must_be_positive(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=r"WuKong layer: \(lcb, fmb, k\)"):
        WuKongLayerConfig(lcb=numbers[0], fmb=numbers[1], k=numbers[2], mlp=TANH)
    with pytest.raises(ConfigError, match="positive integers"):
        init_linear_compress(key(0), 0, 2)
    with pytest.raises(ConfigError, match="positive integers"):
        init_fm_block(key(0), 2, 3, 0, 2, TANH)


def test_other_shapes_are_refused() -> None:
    config = WuKongLayerConfig(lcb=2, fmb=2, k=2, mlp=TANH)
    params, state = init_wukong_layer(key(0), 4, 3, config)
    for shape in ((2, 1, 4), (2, 12)):
        with pytest.raises(ShapeError, match=r"wukong_layer: input.*expected \[b, 3, d\]"):
            wukong_layer(params, torch.zeros(shape), state, config)
        with pytest.raises(ShapeError, match=r"linear_compress: input.*expected \[b, 3, d\]"):
            linear_compress(params["lcb"], torch.zeros(shape))
    block, held = params["fmb"], state["fmb"]
    fm_block(block, torch.zeros(5, 3, 4), held, TANH, 2)
    for shape in ((5, 3, 5), (5, 3, 2), (5, 3, 1), (5, 3, 8), (5, 2, 4), (5, 12)):  # dims that divide 8 too
        with pytest.raises(ShapeError, match=r"fm_block: input: got .* n_out=2, expected \[b, 3, d\] with n_out d = 8"):
            fm_block(block, torch.zeros(shape), held, TANH, 2)
    with pytest.raises(ShapeError, match=r"fm_block: input: got \(5, 3, 2\)"):
        wukong_layer(params, torch.zeros(5, 3, 2), state, config)
    for shape in ((5, 2, 1), (1, 2, 4), (5, 1, 4)):
        with pytest.raises(ShapeError, match=r"fm_block: compressed: got .*expected \(5, 2, 4\)"):
            fm_block(block, torch.zeros(5, 3, 4), held, TANH, 2, compressed=torch.zeros(shape))
