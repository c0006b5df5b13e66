"""Laws of the MLP's config, trees, state and keys; test_torch_nn.py holds its mathematics."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, KeyMissingError, ShapeError
from funcrec.core.init import Constant
from funcrec.core.random import key, split
from funcrec.core.tree import count, leaves, paths, stack, tree
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp, mlp_hidden, mlp_parameter_count
from tests.layers.cases import noise

configs = st.builds(
    lambda units, norm, bias, activation: MLPConfig(
        hidden_units=tuple(units), use_bn=norm == "bn", use_ln=norm == "ln", bias=bias, activation=activation
    ),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from(["bn", "ln", ""]),
    st.booleans(),
    st.sampled_from(["nn.ReLU", "Dice", "prelu", "", None]),
)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), configs)
def test_counts_paths_and_hidden_outputs(n_in: int, config: MLPConfig) -> None:
    params, state = init_mlp(key(0), n_in, config)
    assert count(params) == mlp_parameter_count(n_in, config)
    assert list(paths(params)) == sorted(paths(params))
    x = noise(1, 4, n_in).float()
    hidden, moved = mlp_hidden(params, x, state, config, train=True)
    assert [h.shape for h in hidden] == [(4, n) for n in config.hidden_units]
    assert hidden[-1].shape[-1] == config.output_dim
    assert paths(moved) == paths(state)
    torch.testing.assert_close(mlp(params, x, state, config, train=True)[0], hidden[-1], rtol=0, atol=0)
    assert mlp(params, x, state, config)[1] is state


def test_batch_norm_removes_the_bias_and_layer_norm_keeps_it() -> None:
    plain = MLPConfig(hidden_units=(3,))
    normed = (replace(plain, use_bn=True), False), (replace(plain, use_ln=True), True)
    for config, biased in (*normed, (plain, True), (replace(plain, bias=False), False)):
        params, _ = init_mlp(key(0), 2, config)
        assert ("0.linear.bias" in paths(params)) is biased


def test_the_last_layer_is_activated_and_dropped_out_too() -> None:
    config = MLPConfig(hidden_units=(64,), weight=Constant(1.0), bias_init=Constant(0.0), dropout=0.5)
    params, state = init_mlp(key(0), 1, config)
    y, _ = mlp(params, torch.tensor([[-1.0], [1.0]]), state, config, key=key(1), train=True)
    assert (y[0] == 0.0).all()
    assert set(y[1].tolist()) == {0.0, 2.0}


def test_another_layer_does_not_reshuffle_the_weights_of_its_siblings() -> None:
    short, _ = init_mlp(key(0), 4, MLPConfig(hidden_units=(3, 2)))
    long, _ = init_mlp(key(0), 4, MLPConfig(hidden_units=(3, 2, 5), use_ln=True))
    for name in ("0", "1"):
        assert torch.equal(short[name, "linear", "weight"], long[name, "linear", "weight"])
    same_shape, _ = init_mlp(key(0), 3, MLPConfig(hidden_units=(3, 3)))
    assert not torch.equal(same_shape["0", "linear", "weight"], same_shape["1", "linear", "weight"])


def test_each_layer_drops_with_a_key_and_a_rate_of_its_own() -> None:
    config = MLPConfig(hidden_units=(200, 200), activation=None, dropout=(0.2, 0.7))
    params, state = init_mlp(key(0), 3, config)
    hidden, _ = mlp_hidden(params, noise(1, 2, 3).float(), state, config, key=key(5), train=True)
    first, second = (h == 0 for h in hidden)
    assert abs(first.float().mean() - 0.2) < 0.1
    assert abs(second.float().mean() - 0.7) < 0.12
    equal_rates = replace(config, dropout=0.5)
    hidden, _ = mlp_hidden(params, noise(1, 2, 3).float(), state, equal_rates, key=key(5), train=True)
    assert not torch.equal(hidden[0] == 0, hidden[1] == 0)


def test_a_member_of_a_mapped_ensemble_is_that_member_alone() -> None:
    config = MLPConfig(hidden_units=(4, 3), use_bn=True, dropout=0.4, activation="Dice")
    keys = split(key(0), 3)
    members = [init_mlp(k, 5, config) for k in keys]
    x = noise(1, 6, 5).float()
    f = lambda p, s, k: mlp(p, x, s, config, key=k, train=True)  # noqa: E731
    y, moved = torch.vmap(f)(stack([p for p, _ in members]), stack([s for _, s in members]), keys)
    for i, (params, state) in enumerate(members):
        y_i, moved_i = f(params, state, keys[i])
        torch.testing.assert_close(y[i], y_i)
        for a, b in zip(leaves(moved), leaves(moved_i), strict=True):
            torch.testing.assert_close(a[i], b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_units": ()}, "hidden_units"),
        ({"hidden_units": (4, 0)}, "hidden_units"),
        ({"hidden_units": (4.5,)}, "hidden_units"),
        ({"use_bn": True, "use_ln": True}, "Could not use_bn and use_ln at the same time"),
        ({"dropout": (0.1, 0.2, 0.3)}, "got 3 rates, expected one, or one for each of 2"),
        ({"dropout": 1.0}, "dropout rate"),
        ({"dropout": (0.0, -0.1)}, "dropout rate"),
        ({"activation": "nn.Rely"}, "^Unknown activation method"),
    ],
)
def test_configs_that_describe_no_mlp(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MLPConfig(**({"hidden_units": (4, 2)} | options))


def test_configs_are_values() -> None:
    config = MLPConfig(hidden_units=[4, 2], dropout=[0.1, 0.2], weight=Constant(0.5))  # type: ignore[arg-type]
    assert config == MLPConfig(hidden_units=(4, 2), dropout=(0.1, 0.2), weight=Constant(0.5))
    assert pickle.loads(pickle.dumps(config)) == config
    assert len({config, replace(config), replace(config, bias=False)}) == 2
    assert MLPConfig(hidden_units=(4, 2), dropout=()).dropout_rates == (0.0, 0.0)


def test_errors_at_the_call() -> None:
    config = MLPConfig(hidden_units=(4,), dropout=0.5)
    params, state = init_mlp(key(0), 3, config)
    with pytest.raises(KeyMissingError, match="dropout"):
        mlp(params, torch.zeros(2, 3), state, config, train=True)
    with pytest.raises(ShapeError, match="linear"):
        mlp(params, torch.zeros(2, 4), state, config)
    mlp(params, torch.zeros(2, 3), state, config)
    config = MLPConfig(hidden_units=(4,), use_bn=True)
    params, _ = init_mlp(key(0), 3, config)
    with pytest.raises(ShapeError, match="no running statistics"):
        mlp(params, torch.zeros(2, 3), tree(), config)
