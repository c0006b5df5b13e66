"""Laws of variational dropout: what evaluation keeps, what training draws, and the pressure of its penalty."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap

from funcrec.core.errors import ConfigError, KeyMissingError, ShapeError
from funcrec.core.random import key, split, uniform
from funcrec.core.tree import tree
from funcrec.layers.variational_dropout import init_variational_dropout, variational_dropout, variational_penalty
from tests.layers.cases import F64, noise

widths_lists = st.lists(st.integers(1, 4), min_size=1, max_size=4)
EPS = 2.0**-23


def slices(x: Tensor, widths: list[int]) -> list[Tensor]:
    return list(x.split(widths, dim=1))


@given(widths_lists, st.integers(0, 99))
def test_evaluation_multiplies_each_slice_by_what_its_field_keeps(widths: list[int], seed: int) -> None:
    params = init_variational_dropout(key(seed), len(widths), dtype=F64)
    x = noise(seed, 5, sum(widths))
    y = variational_dropout(params, x, widths)
    for part, kept, logit in zip(slices(x, widths), slices(y, widths), params["logits"], strict=True):
        torch.testing.assert_close(kept, part * (1 - torch.sigmoid(logit)))


@given(widths_lists, st.integers(0, 99))
def test_training_draws_one_number_a_row_and_field(widths: list[int], seed: int) -> None:
    params = init_variational_dropout(key(seed), len(widths), dtype=F64)
    x = noise(seed, 5, sum(widths))
    y = variational_dropout(params, x, widths, key=key(seed), train=True)
    rate, u = torch.sigmoid(params["logits"]), uniform(key(seed), (5, len(widths)), dtype=F64)
    for b in range(5):
        start = 0
        for f, width in enumerate(widths):
            odds = (rate[f] + EPS) / (1 - rate[f] + EPS) * (u[b, f] + EPS) / (1 - u[b, f] + EPS)
            z = odds**10 / (1 + odds**10)
            torch.testing.assert_close(y[b, start : start + width], x[b, start : start + width] * (1 - z))
            start += width


@given(st.integers(0, 99), st.floats(-3, 3))
def test_a_field_is_dropped_as_often_as_its_rate_says(seed: int, logit: float) -> None:
    """z > ½ has probability δ; by Hoeffding's bound the count is this far off once in 10⁹ draws."""
    n = 4000
    params = tree({"logits": torch.tensor([logit, 0.0], dtype=F64)})
    y = variational_dropout(params, torch.ones(n, 2, dtype=F64), [1, 1], key=key(seed), train=True)
    dropped = (y < 0.5).double().mean(0)
    assert ((dropped - torch.sigmoid(params["logits"])).abs() < 0.052).all()
    assert ((y >= 0) & (y <= 1)).all()


def test_rates_near_zero_and_one_keep_and_drop_everything() -> None:
    params = tree({"logits": torch.tensor([-60.0, 60.0])})
    x = noise(1, 200, 2).float()
    for train in (False, True):
        y = variational_dropout(params, x, [1, 1], key=key(0), train=train)
        torch.testing.assert_close(y, x * torch.tensor([1.0, 0.0]), rtol=1e-3, atol=1e-3)
    d = grad(lambda p: variational_dropout(p, x, [1, 1], key=key(0), train=True).square().sum())(params)
    assert d["logits"].isfinite().all()


@given(widths_lists, st.integers(1, 50), st.floats(0, 2))
def test_the_penalty_and_its_gradient_push_rates_up(widths: list[int], batch: int, weight: float) -> None:
    params = init_variational_dropout(key(1), len(widths), dtype=F64)
    rate = torch.sigmoid(params["logits"])
    torch.testing.assert_close(variational_penalty(params, batch, weight), weight / batch * (1 - rate).sum())
    d = grad(lambda p: variational_penalty(p, batch, weight))(params)["logits"]
    torch.testing.assert_close(d, -weight / batch * rate * (1 - rate))


def test_the_key_decides_and_members_draw_their_own() -> None:
    params, x = init_variational_dropout(key(0), 2, dtype=F64), noise(1, 50, 3)
    draw = lambda k: variational_dropout(params, x, [1, 2], key=k, train=True)  # noqa: E731
    assert torch.equal(draw(key(1)), draw(key(1)))
    assert not torch.equal(draw(key(1)), draw(key(2)))
    keys = split(key(3), 3)
    together = vmap(draw)(keys)
    for i in range(3):
        torch.testing.assert_close(together[i], draw(keys[i]))
    rows = vmap(lambda r: variational_dropout(params, r[None], [1, 2])[0])(x)
    torch.testing.assert_close(rows, variational_dropout(params, x, [1, 2]))


def test_initial_logits_are_standard_normal() -> None:
    logits = init_variational_dropout(key(5), 5000, dtype=F64)["logits"]
    assert abs(float(logits.mean())) < 6 / 5000**0.5
    assert abs(float(logits.var()) - 1) < 6 * (2 / 5000) ** 0.5


def test_errors() -> None:
    params, x = init_variational_dropout(key(0), 2), noise(1, 4, 3).float()
    with pytest.raises(KeyMissingError, match="variational dropout: no random key: got train=True; pass key="):
        variational_dropout(params, x, [1, 2], train=True)
    for widths in ([1, 1], [1, 1, 1], [3]):
        with pytest.raises(
            ShapeError, match=r"variational dropout: got x \(4, 3\), 2 rates, widths \[.*expected one width"
        ):
            variational_dropout(params, x, widths)
    with pytest.raises(ConfigError, match="number of fields: got 0"):
        init_variational_dropout(key(0), 0)


def test_half_precision_inputs_keep_their_dtype() -> None:
    params = init_variational_dropout(key(0), 2)
    for train in (False, True):
        y = variational_dropout(params, noise(1, 4, 3).half(), [1, 2], key=key(0), train=train)
        assert y.dtype == torch.float16
        assert y.isfinite().all()
