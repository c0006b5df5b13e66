"""Batch statistics under a mask are those of the rows that it keeps; what stands at the others does not matter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jvp

from funcrec.core.random import key
from funcrec.core.tree import leaves, tree
from funcrec.layers.batch_norm import batch_norm, init_batch_norm
from funcrec.layers.dice import dice, init_dice
from funcrec.layers.linear import linear
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp
from tests.layers.cases import F64, jitter, noise, positive

masks = st.lists(st.booleans(), min_size=2, max_size=6).map(torch.tensor)
affine = pytest.mark.parametrize("affine", [True, False])


@affine
@given(mask=masks)
def test_masked_is_the_batch_norm_of_the_rows_kept(affine: bool, mask: Tensor) -> None:
    params, state = init_batch_norm(3, affine, dtype=F64)
    params, state = jitter(params), positive(jitter(state))
    x = noise(1, len(mask), 3)
    dirty = torch.where(mask[:, None], x, torch.nan)
    y, new = batch_norm(params, dirty, state, train=True, mask=mask)
    n = int(mask.sum())
    if n > 1:
        expected, moved = batch_norm(params, x[mask], state, train=True)
        torch.testing.assert_close(y[mask], expected)
        torch.testing.assert_close(leaves(new), leaves(moved))

        def loss(v: Tensor, rows: Tensor | None) -> Tensor:
            out = batch_norm(params, v, state, train=True, mask=rows)[0]
            return (out if rows is None else out[rows]).sin().sum()

        by_mask = grad(lambda v: loss(v, mask))(dirty)
        torch.testing.assert_close(by_mask[mask], grad(lambda v: loss(v, None))(x[mask]))
        assert (by_mask[~mask] == 0).all()
    evaluated, kept = batch_norm(params, x, state, mask=mask)
    assert kept is state
    assert torch.equal(evaluated, batch_norm(params, x, state)[0])


@given(mask=st.none() | masks.filter(lambda m: int(m.sum()) > 1), train=st.booleans())
def test_nothing_is_learned_through_the_running_statistics(mask: Tensor | None, train: bool) -> None:
    """They move with the batch, but as numbers: by either mode of differentiation they do not depend on it."""
    x = noise(1, 5 if mask is None else len(mask), 3)
    params, state = init_batch_norm(3, dtype=F64)
    _, dice_state = init_dice(key(0), 3, F64)
    config = MLPConfig(hidden_units=(2,), use_bn=True, activation="Dice")
    net, net_state = init_mlp(key(0), 3, config, F64)
    held = {
        "bn": lambda v: batch_norm(params, v, state, train=train, mask=mask)[1],
        "dice": lambda v: dice(tree({"alpha": torch.ones(3)}), v, dice_state, train=train, mask=mask)[1],
        "mlp": lambda v: mlp(net, v, net_state, config, train=train, mask=mask)[1],
    }
    for new in held.values():
        for i in range(len(leaves(new(x)))):
            one = lambda v, i=i, new=new: leaves(new(v))[i].sum() + 0 * v.sum()  # noqa: E731
            assert (grad(one)(x) == 0).all()
            assert jvp(one, (x,), (torch.ones_like(x),))[1] == 0


def test_no_row_says_nothing_and_one_row_nothing_about_the_variance() -> None:
    params, state = init_batch_norm(2, dtype=F64)
    x = noise(1, 3, 2)
    _, none = batch_norm(params, x, state, train=True, mask=torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(leaves(none), leaves(state), rtol=0, atol=0)
    y, one = batch_norm(params, x, state, train=True, mask=torch.tensor([False, True, False]))
    torch.testing.assert_close(one["mean"], 0.1 * x[1])
    torch.testing.assert_close(one["var"], state["var"])
    assert (y[1] == 0).all()
    d = grad(lambda v: batch_norm(params, v, state, train=True, mask=v[:, 0] > 9)[0].sin().sum())(x)
    assert d.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_normalized_in_single(dtype: torch.dtype) -> None:
    params, state = init_batch_norm(2)
    x, mask = 300 * noise(1, 40, 2).to(dtype), torch.arange(40) % 3 > 0
    y, new = batch_norm(params, x, state, train=True, mask=mask)
    assert y.dtype == dtype
    assert new["var"].dtype == torch.float32
    torch.testing.assert_close(y[mask], batch_norm(params, x[mask], state, train=True)[0])


@given(masks.filter(lambda m: int(m.sum()) > 1))
def test_dice_and_mlp_pass_the_mask_on(mask: Tensor) -> None:
    x = noise(1, len(mask), 3)
    dirty = torch.where(mask[:, None], x, 1e3)
    params, state = init_dice(key(0), 3, F64)
    params = jitter(params)
    y, new = dice(params, dirty, state, train=True, mask=mask)
    expected, moved = dice(params, x[mask], state, train=True)
    torch.testing.assert_close([y[mask], *leaves(new)], [expected, *leaves(moved)])
    for config in (
        MLPConfig(hidden_units=(4, 2), use_bn=True, activation="Dice"),
        MLPConfig(hidden_units=(4,), use_bn=True, activation="prelu"),
    ):
        params, state = init_mlp(key(0), 3, config, F64)
        y, new = mlp(params, dirty, state, config, train=True, mask=mask)
        expected, moved = mlp(params, x[mask], state, config, train=True)
        torch.testing.assert_close([y[mask], *leaves(new)], [expected, *leaves(moved)])


def test_a_projected_input_skips_the_first_linear_map_only() -> None:
    config = MLPConfig(hidden_units=(4, 2), use_bn=True, activation="Dice")
    params, state = init_mlp(key(0), 3, config, F64)
    x = noise(1, 5, 3)
    y, new = mlp(params, x, state, config, train=True)
    z, moved = mlp(params, linear(params["0"]["linear"], x), state, config, train=True, projected=True)
    torch.testing.assert_close([z, *leaves(moved)], [y, *leaves(new)], rtol=0, atol=0)
