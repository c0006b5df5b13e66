"""Rows of a table as they are in the whole, without the whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core import init
from funcrec.core.random import key, normal, only_rows, uniform
from funcrec.shard.blocks import init_rows

INITIALIZERS = [
    init.Constant(0.5),
    init.Uniform(-1.0, 2.0),
    init.Normal(0.1),
    init.TruncatedNormal(0.2),
    init.XavierUniform(),
    init.RowCountUniform(),
]


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=lambda i: type(i).__name__)
@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_rows_are_those_of_the_whole(initializer, rows, dim, data) -> None:
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    whole = initializer(key(3), (rows, dim), torch.float32)
    part = init_rows(initializer, key(3), (rows, dim), torch.float32, range(start, stop))
    assert torch.equal(part, whole[start:stop])


def test_draws_of_other_shapes_and_later_ones_are_whole() -> None:
    other, same = normal(key(0), (4, 2)), uniform(key(0), (4, 3))
    with only_rows((4, 3), 1, 2):
        assert torch.equal(uniform(key(0), (4, 3)), same[1:2])
        assert torch.equal(normal(key(0), (4, 2)), other)
    assert torch.equal(uniform(key(0), (4, 3)), same)
