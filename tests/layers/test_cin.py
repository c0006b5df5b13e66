"""Laws of the compressed interaction network: the sum, its degrees, its symmetries, and that no order of work shows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.init import Constant, XavierNormal
from funcrec.core.random import key, permutation
from funcrec.core.tree import count, map_leaves, paths, tree
from funcrec.layers.cin import cin, init_cin
from tests.layers.cases import F64, jitter, noise

fields = st.integers(1, 4)
dims = st.integers(1, 3)
layers = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


def made(n: int, sizes: tuple[int, ...], bias: bool = True):
    params = jitter(init_cin(key(0), n, sizes, dtype=F64))
    if bias:
        return params
    return map_leaves(lambda v: v if v.dim() == 3 else torch.zeros_like(v), params)


def slow(params, x_0: Tensor) -> Tensor:
    """The definition, one output component at a time."""
    x, out = x_0, []
    for k in range(len(params.keys())):
        weight, bias = params[str(k)]["weight"], params[str(k)]["bias"]
        new = []
        for o in range(weight.shape[0]):
            total = bias[o].expand_as(x_0[:, 0])
            for h in range(weight.shape[1]):
                for f in range(weight.shape[2]):
                    total = total + weight[o, h, f] * x[:, h] * x_0[:, f]
            new.append(total)
        x = torch.stack(new, dim=1)
        out.append(x.sum(2))
    return torch.cat(out, dim=1)


@given(st.integers(1, 3), fields, dims, layers)
@example(2, 2, 3, (4, 5, 1))  # more outputs than inputs: the products of fields first
@example(2, 2, 3, (4, 4, 1))  # a wide layer before: the weights first, over that layer
@example(2, 4, 3, (2, 3, 1))  # many fields: the weights first, over the fields
@example(1, 1, 1, (1,))
def test_cin_is_the_slow_sum(b: int, n: int, d: int, sizes: tuple[int, ...]) -> None:
    params, x = made(n, sizes), noise(1, b, n, d)
    y = cin(params, x)
    assert y.shape == (b, sum(sizes))
    torch.testing.assert_close(y, slow(params, x))


@given(fields, dims, layers, st.floats(-2, 2))
def test_layer_k_without_bias_is_homogeneous_of_degree_k_plus_one(
    n: int, d: int, sizes: tuple[int, ...], t: float
) -> None:
    params, x = made(n, sizes, bias=False), noise(1, 2, n, d)
    scales = torch.tensor([t ** (k + 2) for k, h in enumerate(sizes) for _ in range(h)], dtype=F64)
    torch.testing.assert_close(cin(params, t * x), scales * cin(params, x))


@given(fields, dims, layers, st.integers(0, 100))
def test_permuting_the_fields_permutes_the_weights(n: int, d: int, sizes: tuple[int, ...], seed: int) -> None:
    params, x, order = made(n, sizes), noise(1, 2, n, d), permutation(key(seed), n)
    moved = {k: {"bias": v["bias"], "weight": v["weight"][:, :, order]} for k, v in params.items()}
    moved["0"]["weight"] = moved["0"]["weight"][:, order]
    torch.testing.assert_close(cin(tree(moved), x[:, order]), cin(params, x))


@given(st.integers(1, 3), st.integers(1, 3), dims, st.integers(1, 4), st.floats(-2, 2))
def test_a_layer_is_linear_in_each_of_its_two_inputs(m: int, n: int, d: int, o: int, t: float) -> None:
    """With weights between the first m fields and the last n only, one layer is bilinear in the two blocks."""
    params = made(m + n, (o,), bias=False)
    weight = params["0", "weight"].clone()
    weight[:, m:] = 0
    weight[:, :, :m] = 0
    params = tree({"0": {"bias": params["0", "bias"], "weight": weight}})
    f = lambda left, right: cin(params, torch.cat([left, right], dim=1))  # noqa: E731
    a, b, u, v = noise(1, 2, m, d), noise(2, 2, m, d), noise(3, 2, n, d), noise(4, 2, n, d)
    assert f(a, u).abs().max() > 0
    torch.testing.assert_close(f(a + t * b, u), f(a, u) + t * f(b, u))
    torch.testing.assert_close(f(a, u + t * v), f(a, u) + t * f(a, v))


@given(fields, dims, layers, st.integers(1, 4))
def test_a_further_layer_leaves_the_others_as_they_are(n: int, d: int, sizes: tuple[int, ...], last: int) -> None:
    """The last layer takes a shorter way to its sums: taken one layer earlier, it gives the same numbers."""
    params, x = made(n, (*sizes, last)), noise(1, 2, n, d)
    shorter = tree({str(k): params[str(k)] for k in range(len(sizes))})
    torch.testing.assert_close(cin(params, x)[:, : sum(sizes)], cin(shorter, x))


def test_components_do_not_meet_before_the_sum() -> None:
    params, x = made(3, (4, 2)), noise(1, 2, 3, 5)
    apart = sum((cin(params, x[:, :, d : d + 1]) for d in range(5)), torch.zeros(2, 6, dtype=F64))
    torch.testing.assert_close(cin(params, x), apart)


def test_trees_counts_and_initial_laws() -> None:
    params = init_cin(key(0), 9, (10, 15, 20))
    assert paths(params) == tuple(f"{k}.{leaf}" for k in range(3) for leaf in ("bias", "weight"))
    assert [tuple(params[str(k)]["weight"].shape) for k in range(3)] == [(10, 9, 9), (15, 10, 9), (20, 15, 9)]
    assert count(params) == 10 * 81 + 15 * 90 + 20 * 135 + 45
    for k, fan_in in enumerate((81, 90, 135)):
        weight, bound = params[str(k), "weight"], 1 / math.sqrt(fan_in)
        assert 0.95 * bound < weight.abs().max() <= bound
        assert 0.5 * bound < params[str(k), "bias"].abs().max() <= bound
    equal = init_cin(key(0), 3, (3, 3))
    assert not torch.equal(equal["0", "weight"], equal["1", "weight"]), "layers are drawn apart"


def test_initializers_see_the_matrix_of_a_convolution() -> None:
    params = init_cin(key(0), 20, (50,), weight=XavierNormal(), bias_init=Constant(0.5), dtype=F64)
    assert abs(params["0", "weight"].std() / math.sqrt(2 / (400 + 50)) - 1) < 0.05
    assert (params["0", "bias"] == 0.5).all()


def test_zero_weights_leave_the_biases_once_a_component() -> None:
    params = made(3, (4, 2))
    zero = map_leaves(lambda v: v * 0 if v.dim() == 3 else v, params)
    biases = torch.cat([params["0", "bias"], params["1", "bias"]])
    torch.testing.assert_close(cin(zero, noise(1, 2, 3, 5)), 5 * biases.expand(2, 6))


@pytest.mark.parametrize(("n", "sizes"), [(0, (2,)), (3, ()), (3, (2, 0))])
def test_sizes_must_be_positive(n: int, sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"cin: \(n_fields, layer_sizes\).*at least one layer"):
        init_cin(key(0), n, sizes)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 1, 5), (2, 15)])
def test_other_numbers_of_fields_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"cin: input.*expected \[b, 3, d\]"):
        cin(init_cin(key(0), 3, (2, 2)), torch.zeros(shape))
