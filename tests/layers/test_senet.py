"""Laws of squeeze-and-excitation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.random import key, permutation
from funcrec.core.tree import count, map_leaves, tree
from funcrec.layers.senet import init_senet, senet
from tests.layers.cases import F64, noise

slices = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def made(n: int, ratio: int = 2):
    return map_leaves(lambda v: 3 * v, init_senet(key(0), n, ratio, dtype=F64))


@given(slices, st.integers(1, 4))
def test_senet_is_the_loop_over_fields(widths: tuple[int, ...], ratio: int) -> None:
    params, x = made(len(widths), ratio), noise(1, 3, sum(widths))
    parts = x.split(widths, dim=1)
    slow = []
    for b in range(3):
        means = torch.stack([part[b].sum() / len(part[b]) for part in parts])
        hidden = (params["squeeze", "weight"] @ means).clamp(min=0)
        gates = 1 / (1 + torch.exp(-(params["excite", "weight"] @ hidden)))
        slow.append(torch.cat([g * part[b] for g, part in zip(gates, parts, strict=True)]))
    torch.testing.assert_close(senet(params, x, widths), torch.stack(slow))


@given(slices, st.integers(0, 100))
def test_permuting_the_fields_permutes_the_weights(widths: tuple[int, ...], seed: int) -> None:
    params, x = made(len(widths)), noise(1, 3, sum(widths))
    order = permutation(key(seed), len(widths))
    move = lambda v: torch.cat([v.split(widths, dim=1)[i] for i in order], dim=1)  # noqa: E731
    moved = tree(
        {
            "excite": {"weight": params["excite", "weight"][order]},
            "squeeze": {"weight": params["squeeze", "weight"][:, order]},
        }
    )
    torch.testing.assert_close(senet(moved, move(x), [widths[i] for i in order]), move(senet(params, x, widths)))


@given(slices)
def test_gates_shrink_and_zero_weights_halve(widths: tuple[int, ...]) -> None:
    params, x = made(len(widths)), noise(1, 3, sum(widths))
    assert (senet(params, x, widths).abs() < x.abs()).all()
    torch.testing.assert_close(senet(map_leaves(torch.zeros_like, params), x, widths), 0.5 * x)


@pytest.mark.parametrize(("n", "ratio", "r"), [(5, 2, 2), (1, 2, 1), (9, 3, 3), (2, 7, 1)])
def test_sizes_counts_and_initial_laws(n: int, ratio: int, r: int) -> None:
    params = init_senet(key(0), n, ratio)
    assert params["squeeze", "weight"].shape == (r, n)
    assert count(params) == 2 * n * r
    assert params["squeeze", "weight"].abs().max() <= 1 / math.sqrt(n)
    assert 1 / math.sqrt(2 * r) / 4 < params["excite", "weight"].abs().max() <= 1 / math.sqrt(r)


@pytest.mark.parametrize("n", [1, 3])
def test_the_two_maps_are_drawn_apart(n: int) -> None:
    """Also where they have one shape, [f, f]."""
    params = init_senet(key(0), n, 1)
    assert params["squeeze", "weight"].shape == params["excite", "weight"].shape == (n, n)
    assert not torch.equal(params["squeeze", "weight"], params["excite", "weight"])


def test_what_does_not_fit_is_refused() -> None:
    for sizes in ((0, 2), (3, 0)):
        with pytest.raises(ConfigError, match="senet"):
            init_senet(key(0), *sizes)
    params = init_senet(key(0), 2)
    for widths in ((1, 2), (1, 1, 2), (4,), (0, 4), (5, -1)):
        with pytest.raises(ShapeError, match=r"senet: input.*for 2 positive widths"):
            senet(params, torch.zeros(3, 4), widths)
