"""Laws of the embeddings of raw numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.random import key
from funcrec.core.tree import leaves, map_leaves, tree
from funcrec.layers.autodis import AutoDis, autodis
from funcrec.layers.linear_number import LinearNumber, linear_number
from tests.layers.cases import F64, noise

configs = st.builds(
    lambda c, t, k: AutoDis(num_channels=c, temperature=t, keep_prob=k),
    st.integers(1, 5),
    st.sampled_from([0.1, 0.7, 3.0]),
    st.sampled_from([0.0, 0.8, -1.0]),
)


@given(configs, st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_autodis_is_the_loop(config: AutoDis, dim: int, rows: int, seed: int) -> None:
    params = config.init(key(seed), 1, dim, F64)
    x = 2 * noise(seed, rows, 1)
    y = config.apply(params, x)
    assert y.shape == (rows, dim)
    for b in range(rows):
        h = [float(F.leaky_relu(x[b, 0] * w, 0.01)) for w in params["proj_w"]]
        scores = [
            (sum(m * hj for m, hj in zip(row.tolist(), h, strict=True)) + config.keep_prob * hi) / config.temperature
            for row, hi in zip(params["proj_m"], h, strict=True)
        ]
        p = [math.exp(s - max(scores)) for s in scores]
        expected = sum(pc / sum(p) * meta for pc, meta in zip(p, params["meta"], strict=True))
        torch.testing.assert_close(y[b], expected)


@given(configs, st.integers(0, 99), st.floats(-1e6, 1e6))
def test_autodis_stays_in_the_hull_of_its_vectors(config: AutoDis, seed: int, x: float) -> None:
    """No coordinate, and no other direction either, leaves the range of the meta embeddings, however large x is."""
    params = config.init(key(seed), 1, 3, F64)
    directions = torch.cat([torch.eye(3, dtype=F64), noise(seed, 3, 5)], dim=1)
    y = autodis(params, torch.tensor([[x]], dtype=F64), config) @ directions
    corners = params["meta"] @ directions
    assert (y <= corners.amax(0) + 1e-9).all()
    assert (y >= corners.amin(0) - 1e-9).all()


@given(st.integers(2, 5), st.integers(0, 99))
def test_autodis_from_one_vector_to_the_mean_of_all(channels: int, seed: int) -> None:
    cold, hot = (AutoDis(num_channels=channels, temperature=t) for t in (1e-9, 1e9))
    params = cold.init(key(seed), 1, 2, F64)
    x = noise(seed, 6, 1)
    h = F.leaky_relu(x * params["proj_w"])
    largest = (h @ params["proj_m"].T + cold.keep_prob * h).argmax(1)
    torch.testing.assert_close(autodis(params, x, cold), params["meta"][largest])
    torch.testing.assert_close(autodis(params, x, hot), params["meta"].mean(0).expand(6, 2), rtol=1e-6, atol=1e-6)


def test_autodis_of_zero_is_the_mean_and_of_one_channel_a_constant() -> None:
    config = AutoDis(num_channels=4)
    params = config.init(key(0), 1, 3, F64)
    torch.testing.assert_close(autodis(params, torch.zeros(2, 1, dtype=F64), config)[0], params["meta"].mean(0))
    single = AutoDis(num_channels=1)
    params = single.init(key(0), 1, 3, F64)
    torch.testing.assert_close(autodis(params, noise(1, 4, 1), single), params["meta"].expand(4, 3))


def test_initial_laws() -> None:
    """Variances of the documented laws, each to within six standard errors; nothing shares its numbers."""
    c, d = 60, 200
    params = AutoDis(num_channels=c).init(key(3), 1, d, F64)
    more = {"weight": LinearNumber().init(key(4), 40, d, F64)["weight"]}
    assert {n: tuple(v.shape) for n, v in params.items()} == {"meta": (c, d), "proj_m": (c, c), "proj_w": (c,)}
    for values, variance in (
        (params["meta"], 1.0),
        (params["proj_m"], 1 / c),
        (params["proj_w"], 2 / (1 + c)),
        (more["weight"], 2 / (40 + d)),
    ):
        n = values.numel()
        assert abs(float(values.square().mean()) / variance - 1) < 6 * (2 / n) ** 0.5
        assert abs(float(values.mean())) < 6 * (variance / n) ** 0.5
    assert not torch.equal(params["meta"][:, :c] / c**0.5, params["proj_m"])


@given(st.integers(1, 3), st.integers(1, 4), st.floats(-3, 3))
def test_linear_number_is_linear(width: int, dim: int, scale: float) -> None:
    params = LinearNumber().init(key(0), width, dim, F64)
    a, b = noise(1, 4, width), noise(2, 4, width)
    y = linear_number(params, a)
    torch.testing.assert_close(y, sum(a[:, i, None] * params["weight"][i] for i in range(width)))
    torch.testing.assert_close(linear_number(params, scale * a + b), scale * y + linear_number(params, b))
    assert (linear_number(params, torch.zeros_like(a)) == 0).all()


def test_rows_and_members_by_vmap() -> None:
    for number, width in ((AutoDis(num_channels=3), 1), (LinearNumber(), 2)):
        params, x = number.init(key(0), width, 2, F64), noise(1, 5, width)
        torch.testing.assert_close(vmap(lambda r: number.apply(params, r[None])[0])(x), number.apply(params, x))  # noqa: B023
        two = tree(map_leaves(lambda v: torch.stack([v, 2 * v]), params))
        together = vmap(number.apply, in_dims=(0, None))(two, x)
        torch.testing.assert_close(together[1], number.apply(map_leaves(lambda v: 2 * v, params), x))


def test_errors() -> None:
    for options, text in (
        ({"num_channels": 0}, "AutoDis: num_channels: got 0"),
        ({"num_channels": 2, "temperature": 0.0}, r"AutoDis: temperature: got 0\.0"),
        ({"num_channels": 2, "temperature": math.inf}, "AutoDis: temperature: got inf"),
        ({"num_channels": 2, "keep_prob": math.nan}, "AutoDis: keep_prob: got nan"),
    ):
        with pytest.raises(ConfigError, match=text):
            AutoDis(**options)
    with pytest.raises(ConfigError, match=r"AutoDis: width of the field: got 2, expected 1; .*LinearNumber"):
        AutoDis(num_channels=3).init(key(0), 2, 4)
    config = AutoDis(num_channels=3)
    with pytest.raises(ShapeError, match=r"autodis: input: got \(4, 3\), expected \[B, 1\]"):
        config.apply(config.init(key(0), 1, 4, F64), noise(1, 4, 3))
    with pytest.raises(ShapeError, match=r"linear_number: input: got \(4, 3\), expected \[B, 2\]"):
        linear_number(LinearNumber().init(key(0), 2, 4, F64), noise(1, 4, 3))
    assert all(v.dtype == torch.float32 for v in leaves(config.init(key(0), 1, 4)))
