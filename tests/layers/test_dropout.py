"""Laws of dropout: unbiased, a function of its key, the same alone and mapped."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, KeyMissingError
from funcrec.core.random import key, split
from funcrec.layers.dropout import dropout
from tests.layers.cases import noise

rates = st.floats(0.01, 0.95)


@settings(max_examples=30, deadline=None)
@given(rates, st.integers(0, 2**32))
def test_the_mean_is_preserved(rate: float, seed: int) -> None:
    n = 20_000
    y = dropout(torch.ones(n, dtype=torch.float64), rate, key=key(seed), train=True)
    assert abs(y.mean() - 1.0) < 6 * math.sqrt(rate / (1 - rate) / n)


@settings(max_examples=20, deadline=None)
@given(rates, st.integers(0, 2**32))
def test_elements_are_dropped_or_scaled_by_the_key_alone(rate: float, seed: int) -> None:
    x, other = noise(1, 30, 20), noise(2, 30, 20)
    y = dropout(x, rate, key=key(seed), train=True)
    kept = y != 0
    torch.testing.assert_close(y[kept], (x / (1 - rate))[kept])
    assert torch.equal(kept, dropout(other, rate, key=key(seed), train=True) != 0)
    assert torch.equal(y, dropout(x, rate, key=key(seed), train=True))


def test_other_keys_drop_other_elements() -> None:
    x = torch.ones(1000)
    assert not torch.equal(dropout(x, 0.5, key=key(0), train=True), dropout(x, 0.5, key=key(1), train=True))


def test_mapped_over_keys_it_is_the_loop() -> None:
    x, keys = noise(1, 5, 4), split(key(3), 6)
    mapped = torch.vmap(lambda k: dropout(x, 0.3, key=k, train=True))(keys)
    assert torch.equal(mapped, torch.stack([dropout(x, 0.3, key=k, train=True) for k in keys]))


def test_a_dropped_infinity_is_zero() -> None:
    y = dropout(torch.full((100,), torch.inf), 0.5, key=key(0), train=True)
    assert set(y.tolist()) == {0.0, math.inf}


def test_low_precision_stays() -> None:
    assert dropout(torch.ones(4, dtype=torch.bfloat16), 0.5, key=key(0), train=True).dtype == torch.bfloat16


def test_evaluation_and_rate_zero_are_the_identity() -> None:
    x = torch.ones(3)
    assert dropout(x, 0.5) is x
    assert dropout(x, 0.5, key=key(0)) is x
    assert dropout(x, 0.0, train=True) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan])
def test_impossible_rates(rate: float) -> None:
    with pytest.raises(ConfigError, match="dropout rate"):
        dropout(torch.ones(3), rate)


def test_training_needs_a_key() -> None:
    with pytest.raises(KeyMissingError, match=r"rate=0\.5"):
        dropout(torch.ones(3), 0.5, train=True)
