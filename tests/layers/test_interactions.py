"""Laws of the parameter-free pair interactions: slow loops, symmetries, degree."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ShapeError
from funcrec.core.random import key, permutation
from funcrec.layers.dot import dot_interaction
from funcrec.layers.fm import fm
from tests.layers.cases import noise

sizes = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 5))


@settings(max_examples=30, deadline=None)
@given(sizes)
def test_fm_is_the_double_sum(shape: tuple[int, int, int]) -> None:
    x = noise(1, *shape)
    b, n, d = shape
    slow = torch.zeros(b, d, dtype=x.dtype)
    for i, j in combinations(range(n), 2):
        slow += x[:, i] * x[:, j]
    torch.testing.assert_close(fm(x), slow)


@settings(max_examples=20, deadline=None)
@given(sizes, st.floats(-3, 3), st.integers(0, 100))
def test_fm_symmetry_and_degree(shape: tuple[int, int, int], t: float, seed: int) -> None:
    x = noise(1, *shape)
    torch.testing.assert_close(fm(x[:, permutation(key(seed), shape[1])]), fm(x))
    torch.testing.assert_close(fm(t * x), t * t * fm(x))


def test_one_field_has_no_pairs() -> None:
    x = noise(1, 3, 1, 4)
    torch.testing.assert_close(fm(x), torch.zeros(3, 4, dtype=x.dtype))
    assert dot_interaction(x).shape == (3, 0)
    torch.testing.assert_close(dot_interaction(x, self_interaction=True), x.square().sum(2))


@settings(max_examples=30, deadline=None)
@given(sizes, st.booleans())
def test_dot_is_the_slow_loop_in_row_major_order(shape: tuple[int, int, int], self_interaction: bool) -> None:
    x = noise(1, *shape)
    pairs = (combinations_with_replacement if self_interaction else combinations)(range(shape[1]), 2)
    slow = [(x[:, i] * x[:, j]).sum(1) for i, j in pairs]
    expected = torch.stack(slow, dim=1) if slow else x.new_zeros(shape[0], 0)
    torch.testing.assert_close(dot_interaction(x, self_interaction=self_interaction), expected)


@settings(max_examples=20, deadline=None)
@given(sizes, st.floats(-3, 3), st.integers(0, 100))
def test_dot_permutes_with_its_fields_and_has_degree_two(shape: tuple[int, int, int], t: float, seed: int) -> None:
    x = noise(1, *shape)
    n = shape[1]
    order = permutation(key(seed), n)
    column = {pair: c for c, pair in enumerate(combinations(range(n), 2))}
    moved = [column[min(i, j), max(i, j)] for i, j in (order[list(pair)].tolist() for pair in column)]
    torch.testing.assert_close(dot_interaction(x[:, order]), dot_interaction(x)[:, moved])
    torch.testing.assert_close(dot_interaction(t * x), t * t * dot_interaction(x))


def test_the_sum_of_fm_is_the_sum_of_dots() -> None:
    x = noise(1, 5, 6, 3)
    torch.testing.assert_close(fm(x).sum(1), dot_interaction(x).sum(1))


@pytest.mark.parametrize("layer", [fm, dot_interaction])
@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 3, 1)])
def test_a_flat_group_vector_is_refused(layer, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ShapeError, match=rf"{layer.__name__}: input: got \({shape[0]}, .*expected \[b, n, d\].*stacked"
    ):
        layer(noise(1, *shape))
