"""Activation strings mean what torch.nn means by them; Dice and PReLU by their formulas."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap

from funcrec.core.errors import ConfigError
from funcrec.core.random import key
from funcrec.core.tree import tree
from funcrec.layers.activation import parse_activation
from funcrec.layers.batch_norm import batch_norm
from funcrec.layers.dice import dice, init_dice
from tests.layers.cases import F64, noise

SPECS: list[tuple[str | None, nn.Module]] = [
    ("nn.ReLU", nn.ReLU()),
    ("relu", nn.ReLU()),
    ("nn.ReLU(inplace=True)", nn.ReLU()),
    ("nn.ReLU6()", nn.ReLU6()),
    ("nn.LeakyReLU", nn.LeakyReLU()),
    ("nn.LeakyReLU(negative_slope=0.2)", nn.LeakyReLU(0.2)),
    ("leaky_relu(0.3)", nn.LeakyReLU(0.3)),
    ("torch.nn.ELU(alpha=0.5)", nn.ELU(0.5)),
    ("nn.CELU(alpha=2.0)", nn.CELU(2.0)),
    ("selu", nn.SELU()),
    ("nn.GELU", nn.GELU()),
    ("nn.GELU(approximate='tanh')", nn.GELU("tanh")),
    ("nn.SiLU", nn.SiLU()),
    ("swish", nn.SiLU()),
    ("nn.Mish", nn.Mish()),
    ("nn.Sigmoid", nn.Sigmoid()),
    ("log_sigmoid", nn.LogSigmoid()),
    ("tanh", nn.Tanh()),
    ("nn.Softplus(beta=2)", nn.Softplus(2)),
    ("nn.Softplus(2, 5)", nn.Softplus(2, 5)),
    ("nn.Softsign", nn.Softsign()),
    ("nn.Hardtanh(-2, 1)", nn.Hardtanh(-2, 1)),
    ("nn.Hardsigmoid", nn.Hardsigmoid()),
    ("nn.Hardswish", nn.Hardswish()),
    ("nn.Identity", nn.Identity()),
    ("", nn.Identity()),
    (None, nn.Identity()),
]
each_spec = pytest.mark.parametrize(("spec", "module"), SPECS, ids=[repr(s) for s, _ in SPECS])


@each_spec
def test_value_and_transforms_are_those_of_torch_nn(spec: str | None, module: nn.Module) -> None:
    activation = parse_activation(spec)
    assert activation.init(key(0), 3, None) == (None, None)
    f = lambda x: activation.apply(None, x, None)[0]  # noqa: E731
    x = 3.0 * noise(1, 40)
    before = x.clone()
    torch.testing.assert_close(f(x), module(x.clone()))
    assert torch.equal(x, before)
    first = vmap(grad(f))(x)
    step = 1e-6
    torch.testing.assert_close(first, (module(x + step) - module(x - step)) / (2 * step), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(jvp(f, (x,), (torch.ones_like(x),))[1], first)
    second = vmap(grad(grad(f)))(x)
    slope = lambda x: vmap(grad(f))(x)  # noqa: E731
    torch.testing.assert_close(second, (slope(x + step) - slope(x - step)) / (2 * step), rtol=1e-4, atol=1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(activation)).apply(None, x, None)[0], f(x))


@pytest.mark.parametrize(
    "spec",
    [
        "nn.Rely",
        "nn.Linear(3, 2)",
        "softmax",
        "os.nn.ReLU",
        "__import__('os').getcwd()",
        "nn.LeakyReLU(negative_slope=__import__('os').getpid())",
        "nn.ReLU(",
        "nn.LeakyReLU(slope=0.1)",
        "nn.LeakyReLU(0.1, 0.2, 0.3)",
        "nn.LeakyReLU(0.1, negative_slope=0.2)",
        "nn.LeakyReLU(negative_slope='steep')",
        "nn.GELU(approximate='none of these')",
        "nn.LeakyReLU(**{'negative_slope': 0.1})",
        "Dice(3)",
        "nn.PReLU(num_parameters='many')",
        "nn.PReLU(num_parameters=2.5)",
    ],
)
def test_unknown_activations(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"^Unknown activation method"):
        parse_activation(spec)


@pytest.mark.parametrize(
    ("spec", "n"), [("nn.PReLU", 1), ("prelu(num_parameters=4, init=0.1)", 4), ("nn.PReLU(1, 0.6)", 1)]
)
def test_prelu(spec: str, n: int) -> None:
    activation = parse_activation(spec)
    params, state = activation.init(key(0), 4, F64)
    assert state is None
    assert params is not None
    assert params["weight"].shape == (n,)
    module = nn.PReLU(n, init=float(params["weight"][0]), dtype=F64)
    x = noise(1, 6, 4)
    f: Any = lambda p, x: activation.apply(p, x, None)[0]  # noqa: E731
    torch.testing.assert_close(f(params, x), module(x))
    expected = torch.autograd.grad(module(x).square().sum(), module.weight)[0]
    torch.testing.assert_close(grad(lambda p: f(p, x).square().sum())(params)["weight"], expected)


def test_prelu_widths() -> None:
    with pytest.raises(ConfigError, match="num_parameters: got 3, expected 1 or the layer's width 4"):
        parse_activation("nn.PReLU(num_parameters=3)").init(key(0), 4, None)


@pytest.mark.parametrize("train", [True, False])
def test_dice_at_init_gates_by_the_normalized_input_and_at_alpha_one_is_the_identity(train: bool) -> None:
    params, state = init_dice(key(0), 3, F64)
    x = noise(1, 7, 2, 3)
    y, moved = dice(params, x, state, train=train)
    normal, expected = batch_norm(tree(), x, state, train=train)
    torch.testing.assert_close(y, x * torch.sigmoid(normal))
    assert (moved == expected).all()
    ones = tree({"alpha": torch.ones(3, dtype=F64)})
    torch.testing.assert_close(dice(ones, x, state, train=train)[0], x)


def test_dice_is_the_formula() -> None:
    params, state = tree({"alpha": noise(2, 3)}), init_dice(key(0), 3, F64)[1]
    x = noise(1, 50, 3)
    p = torch.sigmoid((x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + 1e-5))
    torch.testing.assert_close(dice(params, x, state, train=True)[0], params["alpha"] * (1 - p) * x + p * x)
