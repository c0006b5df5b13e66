"""Laws of the cross networks: the formula, the degree in the input, and how the versions contain each other."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.random import key
from funcrec.core.tree import map_leaves, paths, tree
from funcrec.layers.cross import cross, init_cross
from funcrec.layers.cross_v2 import cross_v2, init_cross_v2
from tests.layers.cases import F64, jitter, noise

depths = st.integers(1, 4)
dims = st.integers(1, 5)


@settings(max_examples=20, deadline=None)
@given(dims, depths)
def test_cross_is_the_recurrence_row_by_row(d: int, n_layers: int) -> None:
    params = jitter(init_cross(key(0), d, n_layers, dtype=F64))
    x = noise(1, 3, d)
    slow = []
    for x_0 in x:
        x_l = x_0
        for i in range(n_layers):
            layer = params[str(i)]
            x_l = torch.outer(x_0, x_l) @ layer["weight"] + layer["bias"] + x_l
        slow.append(x_l)
    torch.testing.assert_close(cross(params, x), torch.stack(slow))


def difference(f, order: int) -> Tensor:
    """The forward difference of this order of ``f(0), f(1), …``: 0 for a polynomial of lower degree."""
    values = [f(float(t)) for t in range(order + 1)]
    for _ in range(order):
        values = [after - before for before, after in pairwise(values)]
    return values[0]


@pytest.mark.parametrize("kind", ["v1", "full", "low_rank"])
@given(d=dims, n_layers=st.integers(1, 3))
@example(d=1, n_layers=1)
@example(d=1, n_layers=3)
def test_the_degree_in_the_input_is_one_more_than_the_number_of_layers(kind: str, d: int, n_layers: int) -> None:
    """And its leading term is ``x`` times the weights of all layers; no bias enters it."""
    rank = {"full": None, "low_rank": 2}.get(kind)
    params = (
        init_cross(key(0), d, n_layers, dtype=F64)
        if kind == "v1"
        else init_cross_v2(key(0), d, n_layers, rank, dtype=F64)
    )
    params = jitter(params)
    x = noise(1, 3, d)
    expected = x
    for i in map(str, range(n_layers)):
        if kind == "v1":
            mapped = (expected @ params[i, "weight"])[:, None]
        else:
            low = kind == "low_rank"
            matrix = params[i, "v", "weight"] @ params[i, "u", "weight"] if low else params[i, "w", "weight"]
            mapped = expected @ matrix.T
        expected = x * mapped
    layer = cross if kind == "v1" else cross_v2
    along = lambda t: layer(params, t * x)  # noqa: E731
    leading = difference(along, n_layers + 1) / math.factorial(n_layers + 1)
    torch.testing.assert_close(leading, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(difference(along, n_layers + 2), torch.zeros_like(x), rtol=0, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(dims, depths)
def test_a_full_matrix_with_equal_rows_and_no_bias_is_version_one(d: int, n_layers: int) -> None:
    v1 = init_cross(key(0), d, n_layers, dtype=F64)
    full = tree(
        {
            i: {"w": {"bias": torch.zeros(d, dtype=F64), "weight": v1[i, "weight"].expand(d, d)}}
            for i in map(str, range(n_layers))
        }
    )
    x = noise(1, 3, d)
    torch.testing.assert_close(cross_v2(full, x), cross(v1, x))


@settings(max_examples=20, deadline=None)
@given(dims, depths, st.integers(1, 6))
def test_low_rank_is_the_full_matrix_v_u(d: int, n_layers: int, rank: int) -> None:
    low = init_cross_v2(key(0), d, n_layers, rank, dtype=F64)
    full = tree(
        {
            i: {"w": {"bias": low[i, "v", "bias"], "weight": low[i, "v", "weight"] @ low[i, "u", "weight"]}}
            for i in map(str, range(n_layers))
        }
    )
    x = noise(1, 3, d)
    torch.testing.assert_close(cross_v2(low, x), cross_v2(full, x))


@pytest.mark.parametrize("layer", ["v1", "v2"])
def test_zero_weights_are_the_identity(layer: str) -> None:
    params = init_cross(key(0), 4, 2) if layer == "v1" else init_cross_v2(key(0), 4, 2, 3)
    x = noise(1, 3, 4).float()
    f = cross if layer == "v1" else cross_v2
    assert torch.equal(f(map_leaves(torch.zeros_like, params), x), x)


def test_trees_and_initial_laws() -> None:
    v1 = init_cross(key(0), 100, 2)
    assert paths(v1) == ("0.bias", "0.weight", "1.bias", "1.weight")
    bound = math.sqrt(6 / 101)
    assert 0.9 * bound < v1["0", "weight"].abs().max() <= bound
    assert (v1["1", "bias"] == 0).all()
    assert not torch.equal(v1["0", "weight"], v1["1", "weight"])
    low = init_cross_v2(key(0), 100, 1, 4)
    assert paths(low) == ("0.u.weight", "0.v.bias", "0.v.weight")
    assert low["0", "u", "weight"].shape == (4, 100)
    assert 0.09 < low["0", "u", "weight"].abs().max() <= 0.1
    assert 0.45 < low["0", "v", "weight"].abs().max() <= 0.5
    assert paths(init_cross_v2(key(0), 5, 1, None)) == ("0.w.bias", "0.w.weight")


@pytest.mark.parametrize("sizes", [(0, 1), (3, 0)])
def test_sizes_must_be_positive(sizes: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="positive integers"):
        init_cross(key(0), *sizes)
    with pytest.raises(ConfigError, match="positive integers"):
        init_cross_v2(key(0), *sizes, None)
    with pytest.raises(ConfigError, match="positive integers"):
        init_cross_v2(key(0), 3, 1, 0)


def test_other_widths_are_refused() -> None:
    for width in (1, 3):
        for f, params in ((cross, init_cross(key(0), 4, 1)), (cross_v2, init_cross_v2(key(0), 4, 1, 2))):
            with pytest.raises(ShapeError, match="input"):
                f(params, torch.zeros(2, width))
