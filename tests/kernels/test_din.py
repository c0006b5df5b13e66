"""Target attention by its op: both layers are their einops form, nobody's rows do not matter, every plan is right."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad, vmap

from funcrec.core.errors import ConfigError
from funcrec.core.ragged import Ragged
from funcrec.core.random import fold_in, key, normal
from funcrec.core.tree import leaves
from funcrec.kernels import din, din_reference, registry
from funcrec.layers.din_attention import DINEncoder, din_attention
from funcrec.layers.din_jagged import din_attention_jagged
from funcrec.layers.mlp import MLPConfig
from tests.kernels.cases_din import Sizes, arguments
from tests.kernels.test_transforms import assert_near, to
from tests.kernels.transforms import floats
from tests.layers.cases import F64, jitter, noise

lengths_lists = st.lists(st.integers(0, 4), min_size=1, max_size=5)
configs = st.builds(
    lambda activation, bias, softmax, cut: DINEncoder(
        attn_mlp=MLPConfig(hidden_units=(4, 3), activation=activation, bias=bias), softmax=softmax, max_seq_length=cut
    ),
    st.sampled_from(["nn.ReLU", "nn.Sigmoid", "torch.nn.ReLU(inplace=True)", "identity", None]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 1, 3, 9]),
)


def history(lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(query, keys, lengths), NaN at padded steps."""
    n, keys = torch.tensor(lengths), noise(1, len(lengths), 4, 3)
    return noise(2, len(lengths), 2), keys.where((torch.arange(4) < n[:, None])[..., None], torch.nan), n


def results(f: Any, params: TensorDict, *inputs: Tensor) -> list[Tensor]:
    """The output and the gradients of parameters and inputs."""

    def loss(p: TensorDict, *x: Tensor) -> tuple[Tensor, Tensor]:
        y = f(p, *x)
        return (y.sin() * noise(3, *y.shape)).sum(), y

    (d_params, *d_inputs), y = grad(loss, argnums=tuple(range(len(inputs) + 1)), has_aux=True)(params, *inputs)
    return [y, *leaves(d_params), *d_inputs]


@given(lengths_lists, configs)
def test_the_padded_layer_is_its_einops_form(lengths: list[int], config: DINEncoder) -> None:
    params, state = config.init(key(0), 2, 3, F64)
    query, keys, n = history(lengths)

    def f(impl: registry.Impl) -> Any:
        return lambda p, q, k: din_attention(p, q, k, n, state, config, train=True, impl=impl)[0]

    with registry.recording() as decisions:
        got = results(f("triton"), jitter(params), query, keys)
    assert [d.impl for d in decisions] == ["triton"]
    torch.testing.assert_close(got, results(f("reference"), jitter(params), query, keys))


@given(lengths_lists, configs)
def test_the_jagged_layer_is_its_einops_form(lengths: list[int], config: DINEncoder) -> None:
    params, state = config.init(key(0), 2, 3, F64)
    query, keys, n = history(lengths)
    rows = Ragged.from_lengths(keys[torch.arange(4) < n[:, None]], n)

    def f(impl: registry.Impl) -> Any:
        def attend(p: TensorDict, q: Tensor, values: Tensor) -> Tensor:
            return din_attention_jagged(p, q, replace(rows, values=values), state, config, impl=impl)[0]

        return attend

    got = results(f("triton"), jitter(params), query, rows.values)
    torch.testing.assert_close(got, results(f("reference"), jitter(params), query, rows.values))


def test_rows_by_vmap_are_the_batch() -> None:
    config = DINEncoder(attn_mlp=MLPConfig(hidden_units=(4, 3)))
    params, state = config.init(key(0), 2, 3, F64)
    query, keys, n = history([4, 0, 1])

    def f(q: Tensor, k: Tensor, m: Tensor) -> Tensor:
        return din_attention(params, q, k, m, state, config, impl="triton")[0]

    got = vmap(lambda q, k, m: f(q[None], k[None], m[None])[0])(query, keys, n)
    torch.testing.assert_close(got, f(query, keys, n))


def test_autocast_computes_in_its_dtype() -> None:
    config = DINEncoder(attn_mlp=MLPConfig(hidden_units=(4, 3)))
    params, state = config.init(key(0), 3, 3)
    query, keys, n = noise(1, 2, 3).float(), noise(2, 2, 4, 3).float(), torch.tensor([4, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = din_attention(params, query, keys, n, state, config, impl="triton")
        expected, _ = din_attention(params, query, keys, n, state, config, impl="reference")
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled:UserWarning")
def test_an_exported_layer_takes_any_batch() -> None:
    config = DINEncoder(attn_mlp=MLPConfig(hidden_units=(4, 3)), max_seq_length=3)
    params, state = config.init(key(0), 3, 3, F64)

    class Scorer(torch.nn.Module):
        def forward(self, query: Tensor, keys: Tensor, n: Tensor) -> Tensor:
            return din_attention(params, query, keys, n, state, config, impl="triton")[0]

    def inputs(b: int) -> tuple[Tensor, ...]:
        return noise(1, b, 3), noise(2, b, 4, 3), torch.arange(b) % 5

    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(Scorer(), inputs(4), dynamic_shapes=({0: rows},) * 3)
    assert "funcrec.din" in program.graph_module.code
    for b in (2, 7):
        torch.testing.assert_close(program.module()(*inputs(b)), Scorer()(*inputs(b)))


@pytest.mark.parametrize(
    ("mlp", "text"),
    [
        (MLPConfig(hidden_units=(4,)), "1 hidden layers, not 2"),
        (MLPConfig(hidden_units=(4, 3), activation="Dice"), "activation dice"),
        (MLPConfig(hidden_units=(4, 3), use_bn=True), "batch normalization between the layers"),
        (MLPConfig(hidden_units=(4, 3), use_ln=True, dropout=0.1), "layer normalization and dropout between"),
        (MLPConfig(hidden_units=(129, 3)), r"hidden layers of \(129, 3\), more than"),
    ],
)
def test_what_the_op_cannot_do_is_said_or_left_to_the_einops_form(mlp: MLPConfig, text: str) -> None:
    config = DINEncoder(attn_mlp=mlp)
    params, state = config.init(key(0), 3, 3, F64)
    query, keys, n = noise(1, 2, 3), noise(2, 2, 4, 3), torch.tensor([4, 2])
    options: dict[str, Any] = {"key": key(1), "train": True}
    with pytest.raises(ConfigError, match=text):
        din_attention(params, query, keys, n, state, config, impl="triton", **options)
    din_attention(params, query, keys, n, state, config, **options)


def test_dropout_stands_nowhere_but_in_training() -> None:
    config = DINEncoder(attn_mlp=MLPConfig(hidden_units=(4, 3), dropout=0.5))
    params, state = config.init(key(0), 3, 3, F64)
    with registry.recording() as decisions:
        din_attention(params, noise(1, 2, 3), noise(2, 2, 4, 3), torch.tensor([4, 2]), state, config, impl="triton")
    assert decisions[0].impl == "triton"


def kernels(name: str) -> Any:
    """A module of kernels, which imports Triton."""
    return importlib.import_module(f"funcrec.kernels.gpu.{name}")


@pytest.fixture
def nan_in_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def filled(make: Any) -> Any:
        return lambda *a, **options: make(*a, **options).fill_(torch.nan)

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, filled(getattr(torch, name)))


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("sizes", [Sizes(3, 40, 5, 35, 3), Sizes(5, 9, 17, 18, 20)], ids=str)
def test_every_plan_in_the_interpreter(sizes: Sizes, softmax: bool, interpreter: None, nan_in_new_memory: None) -> None:
    """Several blocks of steps; a first layer in one part and in two; NaN in memory, and in the rows of nobody."""
    args = arguments(sizes, torch.float32, "cpu")
    c = normal(fold_in(key(1), "c"), (sizes.b, sizes.d))
    sample = torch.arange(len(args[2]))[:, None]
    real = ((sample >= args[3]) & (sample < args[3] + args[4])).any(1)
    assert not real.all()
    dirty = [x if i != 2 else x.where(real[:, None], torch.nan) for i, x in enumerate(args)]
    wide = to((c, *args), F64)
    truth: Any = din_reference
    y, gradients = truth.din(*wide[1:], "sigmoid", softmax), truth.din_vjp(*wide, "sigmoid", softmax)
    forward, backward = kernels("din"), kernels("din_vjp")
    for plan in {p["BT"]: p for p in forward.PLANS}.values():
        assert_near(forward.din(*dirty, "sigmoid", softmax, plan=plan), y, 1e-5)
    for plan in {p["BT"]: p for p in backward.PLANS}.values():
        got = backward.din_vjp(c, *dirty, "sigmoid", softmax, plan=plan)
        assert_near(got, gradients, 3e-5)
        assert (got[2][~real] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_no_sample_has_no_gradient(dtype: torch.dtype, interpreter: None) -> None:
    """By the kernels and, in float64, by the einops form."""
    args = list(arguments(Sizes(0, 3, 4, 5, 6), dtype, "cpu"))
    args[2] = torch.ones(2, 4, dtype=dtype)
    assert din.din(*args, "relu", True).shape == (0, 4)
    gradients = din.din_vjp(torch.ones(0, 4, dtype=dtype), *args, "relu", True)
    inputs = [args[i] for i in floats(args)]
    torch.testing.assert_close(list(gradients), [torch.zeros_like(x) for x in inputs])
