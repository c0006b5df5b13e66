"""Moving averages: the closed form, torch's own, purity, and independence of donated leaves."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.optim import ema, sgd
from tests.optim.cases import close, draw, tensors


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 0.999), st.integers(1, 6), st.booleans(), st.booleans())
def test_averages_are_the_weighted_sum(decay: float, n: int, debias: bool, donate: bool) -> None:
    average = ema(decay, debias=debias)
    start, later = draw(0), [draw(i + 1) for i in range(n)]
    state = average.init(start)
    for leaves in later:
        state = average.update(state, leaves, donate=donate)
    weights = [(1 - decay) * decay ** (n - 1 - i) for i in range(n)]
    first = 0.0 if debias else decay**n
    total = first + sum(weights)
    expected = [
        (first * w + sum(c * ws[j] for c, ws in zip(weights, later, strict=True))) / total for j, w in enumerate(start)
    ]
    close(average.averages(state), expected, tol=1e-9)


def test_each_update_is_torchs() -> None:
    step = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    average, theirs = ema(0.9), draw(0)
    state = average.init(draw(0))
    for i in range(4):
        step(theirs, draw(i + 1), i)
        state = average.update(state, draw(i + 1))
    close(average.averages(state), theirs)


@pytest.mark.parametrize("debias", [False, True])
def test_averages_of_constant_leaves_are_the_leaves(debias: bool) -> None:
    average, leaves = ema(0.97, debias=debias), draw(0)
    state = average.init(leaves)
    close(average.averages(state), leaves, tol=0.0)
    for _ in range(5):
        state = average.update(state, leaves)
    close(average.averages(state), leaves)


def test_a_donated_optimizer_step_does_not_reach_the_average() -> None:
    average, optimizer, leaves = ema(0.5), sgd(1.0), draw(0)
    initial = [w.clone() for w in leaves]
    state = average.init(leaves)
    optimizer.step(draw(1), optimizer.init(leaves, []), leaves, donate=True)
    close(average.averages(state), initial, tol=0.0)


def test_update_is_pure_unless_donated_and_the_state_survives_a_file() -> None:
    average = ema(0.9, debias=True)
    state = average.update(average.init(draw(0)), draw(1))
    kept = [t.clone() for t in tensors(state)]
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    new = average.update(state, draw(2))
    close(tensors(state), kept, tol=0.0)
    close(tensors(average.update(torch.load(file, weights_only=True), draw(2))), tensors(new), tol=0.0)
    donated = average.update(state, draw(2), donate=True)
    close(tensors(donated), tensors(new))
    assert [t.data_ptr() for t in donated["average"]] == [t.data_ptr() for t in state["average"]]


def test_nonsense_raises() -> None:
    with pytest.raises(ConfigError, match=r"ema: decay: got 1\.0"):
        ema(1.0)
    with pytest.raises(ShapeError, match="leaf 0"):
        ema().update(ema().init([torch.zeros(2, 3)]), [torch.zeros(3)])
