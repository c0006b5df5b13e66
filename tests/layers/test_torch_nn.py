"""Linear, norms and MLP are torch.nn's modules of the same weights: outputs, gradients and buffers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from einops import einsum
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import vmap

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.init import Constant
from funcrec.core.random import key
from funcrec.core.tree import leaves, map_leaves, paths, stack
from funcrec.layers.batch_norm import batch_norm, init_batch_norm
from funcrec.layers.dice import dice, init_dice
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp
from funcrec.layers.norm import init_layer_norm, layer_norm
from tests.layers.cases import F64, jitter, noise, positive

sizes = st.integers(1, 6)
shapes = st.one_of(st.tuples(st.integers(2, 7)), st.tuples(st.integers(1, 3), st.integers(2, 4)))


def check_against(module: nn.Module, params: TensorDict, f: Callable[[TensorDict, Tensor], Tensor], x: Tensor) -> None:
    """Same output, and same gradients of the input and of each parameter, in the path order of ``params``.

    ``module.named_parameters`` must list the parameters under the same dotted names.
    """
    weights = dict(module.named_parameters())
    assert sorted(weights) == sorted(paths(params))
    with torch.no_grad():
        for name, value in zip(paths(params), leaves(params), strict=True):
            weights[name].copy_(value)
    x = x.clone().requires_grad_()
    params = map_leaves(lambda v: v.clone().requires_grad_(), params)
    expected, got = module(x), f(params, x)
    torch.testing.assert_close(got, expected)
    cotangent = noise(99, *expected.shape)
    expected_grads = torch.autograd.grad(expected, [x, *(weights[n] for n in paths(params))], cotangent)
    for a, b in zip(torch.autograd.grad(got, [x, *leaves(params)], cotangent), expected_grads, strict=True):
        torch.testing.assert_close(a, b)


@settings(max_examples=20, deadline=None)
@given(sizes, sizes, shapes, st.booleans())
def test_linear(n_in: int, n_out: int, lead: tuple[int, ...], bias: bool) -> None:
    params = init_linear(key(n_in), n_in, n_out, bias=bias, dtype=F64)
    x = noise(1, *lead, n_in)
    check_against(nn.Linear(n_in, n_out, bias=bias, dtype=F64), params, linear, x)
    sums = einsum(x, params["weight"], "... i, o i -> ... o")
    torch.testing.assert_close(linear(params, x), sums + params["bias"] if bias else sums)


def test_linear_initial_law() -> None:
    params = init_linear(key(0), 25, 400)
    for leaf in leaves(params):
        assert 0.19 < leaf.abs().max() <= 0.2  # U(±1/√25)
        assert abs(leaf.mean()) < 5 * 0.2 / (3 * leaf.numel()) ** 0.5
    chosen = init_linear(key(0), 3, 2, weight=Constant(2.0), bias_init=Constant(-1.0))
    torch.testing.assert_close(linear(chosen, torch.ones(3)), torch.tensor([5.0, 5.0]))


@settings(max_examples=20, deadline=None)
@given(sizes, shapes)
def test_layer_norm(n: int, lead: tuple[int, ...]) -> None:
    check_against(nn.LayerNorm(n, dtype=F64), jitter(init_layer_norm(n, dtype=F64)), layer_norm, noise(1, *lead, n))


class ChannelsLast(nn.BatchNorm1d):
    """torch's own, on [B, C] or, through a transposition, on [B, T, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT if x.dim() == 3 else super().forward(x)


@settings(max_examples=20, deadline=None)
@given(sizes, shapes, st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_batch_norm_and_its_buffers_over_steps(n: int, lead: tuple[int, ...], momentum: float, affine: bool) -> None:
    module = ChannelsLast(n, momentum=momentum, affine=affine, dtype=F64)
    params, state = init_batch_norm(n, affine, dtype=F64)
    params = jitter(params)
    f = lambda p, x: batch_norm(p, x, state, train=True, momentum=momentum)[0]  # noqa: E731
    for step in range(3):
        x = 3.0 * noise(step, *lead, n) + 1.0
        check_against(module, params, f, x)
        _, state = batch_norm(params, x, state, train=True, momentum=momentum)
        torch.testing.assert_close(state["mean"], module.running_mean)
        torch.testing.assert_close(state["var"], module.running_var)
    module.eval()
    x = noise(9, *lead, n)
    check_against(module, params, lambda p, x: batch_norm(p, x, state)[0], x)
    assert batch_norm(params, x, state)[1] is state


def test_batch_norm_does_not_write_its_state() -> None:
    params, state = init_batch_norm(2)
    before = state.clone()
    _, after = batch_norm(params, torch.randn(4, 2) + 3, state, train=True)
    assert (state == before).all()
    assert not (after == before).any()


def test_batch_norm_statistics_of_constant_and_tiny_columns() -> None:
    params, state = init_batch_norm(2)
    x = torch.stack([torch.full((64,), 3.0), torch.linspace(-1e-3, 1e-3, 64)], dim=1)
    _, state = batch_norm(params, x, state, train=True, momentum=1.0)
    assert 0.0 <= state["var"][0] < 1e-11
    torch.testing.assert_close(state["var"][1], x[:, 1].var(), rtol=1e-4, atol=0)


def test_batch_norm_members_under_vmap_have_their_own_statistics() -> None:
    params, state = init_batch_norm(3, dtype=F64)
    members = [(jitter(params, i), positive(jitter(state, i))) for i in range(4)]
    many_p, many_s = (stack(trees) for trees in zip(*members, strict=True))
    shared = noise(1, 5, 3)
    for x, dim in ((shared, None), (noise(2, 4, 5, 3), 0)):
        y, moved = vmap(lambda p, x, s: batch_norm(p, x, s, train=True), in_dims=(0, dim, 0))(many_p, x, many_s)
        for i, (p, s) in enumerate(members):
            y_i, moved_i = batch_norm(p, x if dim is None else x[i], s, train=True)
            torch.testing.assert_close(y[i], y_i)
            for name in ("mean", "var"):
                torch.testing.assert_close(moved[name][i], moved_i[name])


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_half_precision_is_computed_in_float32(affine: bool) -> None:
    params, state = init_batch_norm(3, affine)
    x = (100.0 + noise(1, 50, 3)).to(torch.bfloat16)
    for train in (True, False):
        y, moved = batch_norm(params, x, state, train=train)
        exact, exact_moved = batch_norm(params, x.float(), state, train=train)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, exact.to(torch.bfloat16), rtol=0, atol=0)
        for name in ("mean", "var"):
            assert moved[name].dtype == torch.float32
            torch.testing.assert_close(moved[name], exact_moved[name])


def test_batch_norm_refuses_less_than_two_rows_in_training_and_other_widths() -> None:
    params, state = init_batch_norm(3)
    plain, held = init_dice(key(0), 3)
    for shape in ((1, 3), (0, 3), (2, 0, 3)):  # the mean of no row is NaN, and would stay in the state for good
        with pytest.raises(ShapeError, match=r"Expected more than 1 value per channel when training.*fewer than two"):
            batch_norm(params, torch.zeros(shape), state, train=True)
        with pytest.raises(ShapeError, match="Expected more than 1 value per channel when training"):
            dice(plain, torch.zeros(shape), held, train=True)
        assert batch_norm(params, torch.zeros(shape), state)[0].shape == shape
    none = torch.zeros(0, dtype=torch.bool)
    assert (batch_norm(params, torch.zeros(0, 3), state, train=True, mask=none)[1] == state).all()
    batch_norm(params, torch.zeros(1, 2, 3), state, train=True)
    for norm_input in (torch.zeros(4, 1), torch.zeros(4, 2)):
        with pytest.raises(ShapeError, match="batch_norm"):
            batch_norm(params, norm_input, state)
        with pytest.raises(ShapeError, match="layer_norm"):
            layer_norm(init_layer_norm(3), norm_input)
    with pytest.raises(ShapeError, match=r"linear: input: got \[\.\.\., 2\], expected \[\.\.\., 3\]"):
        linear(init_linear(key(0), 3, 2), torch.zeros(4, 2))
    with pytest.raises(ConfigError, match="widths"):
        init_linear(key(0), 0, 2)


class Perceptrons(nn.ModuleDict):
    """Linear → norm → activation, layer by layer, under the names of the parameter tree."""

    def __init__(self, n_in: int, config: MLPConfig) -> None:
        super().__init__()
        for i, n_out in enumerate(config.hidden_units):
            layer = nn.ModuleDict({"linear": nn.Linear(n_in, n_out, bias=config.bias and not config.use_bn, dtype=F64)})
            if config.use_bn:
                layer["bn"] = ChannelsLast(n_out, dtype=F64)
            if config.use_ln:
                layer["ln"] = nn.LayerNorm(n_out, dtype=F64)
            layer["activation"] = nn.PReLU(dtype=F64) if config.activation == "nn.PReLU" else nn.ReLU()
            self[str(i)] = layer
            n_in = n_out

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            for step in layer.values():  # type: ignore[operator]
                x = step(x)
        return x


@settings(max_examples=25, deadline=None)
@given(
    sizes,
    st.lists(sizes, min_size=1, max_size=3),
    st.sampled_from(["bn", "ln", ""]),
    st.booleans(),
    st.sampled_from(["nn.ReLU", "nn.PReLU"]),
    shapes,
    st.booleans(),
)
def test_mlp(
    n_in: int, units: list[int], norm: str, bias: bool, activation: str, lead: tuple[int, ...], train: bool
) -> None:
    config = MLPConfig(
        hidden_units=tuple(units), use_bn=norm == "bn", use_ln=norm == "ln", bias=bias, activation=activation
    )
    params, state = init_mlp(key(1), n_in, config, F64)
    module = Perceptrons(n_in, config).train(train)
    check_against(module, jitter(params), lambda p, x: mlp(p, x, state, config, train=train)[0], noise(1, *lead, n_in))
    if norm == "bn" and train:
        _, moved = mlp(jitter(params), noise(1, *lead, n_in), state, config, train=True)
        assert paths(moved) == paths(state)
        for name, value in zip(paths(moved), leaves(moved), strict=True):
            layer, _, statistic = name.split(".")
            torch.testing.assert_close(value, module.get_buffer(f"{layer}.bn.running_{statistic}"))


def test_mlp_under_autocast_keeps_statistics_in_float32() -> None:
    config = MLPConfig(hidden_units=(8, 4), use_bn=True)
    params, state = init_mlp(key(0), 5, config)
    x = noise(1, 32, 5).float()
    exact, exact_state = mlp(params, x, state, config, train=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, moved = mlp(params, x, state, config, train=True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
    for a, b in zip(leaves(moved), leaves(exact_state), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.01)
