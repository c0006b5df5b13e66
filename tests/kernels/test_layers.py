"""Layers and models with ``impl="triton"``: on a CPU the ops stand for the einops forms, with rules and shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from funcrec.core.errors import ConfigError
from funcrec.core.impl import Impl
from funcrec.core.random import key
from funcrec.core.tree import leaves, map_leaves
from funcrec.kernels import explain, registry
from funcrec.layers.cin import cin, init_cin
from funcrec.layers.cross import cross, init_cross
from funcrec.layers.dot import dot_interaction
from funcrec.layers.fm import fm
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.wukong_layer import WuKongLayerConfig, init_wukong_layer, wukong_layer
from tests.layers.cases import jitter, noise
from tests.models.cases import CASES, inputs, weights

F64 = torch.float64
WUKONG = WuKongLayerConfig(lcb=2, fmb=1, k=2, mlp=MLPConfig(hidden_units=(3,), activation="nn.Tanh"))
_wukong, _state = init_wukong_layer(key(0), 2, 4, WUKONG, dtype=F64)
_cin, _cross = jitter(init_cin(key(0), 4, (3, 2), dtype=F64)), jitter(init_cross(key(0), 8, 3, dtype=F64))

Layer = Callable[[Tensor, Impl], Tensor]
LAYERS: dict[str, Layer] = {
    "dot": lambda x, impl: dot_interaction(x, impl=impl),
    "dot_dense": lambda x, impl: dot_interaction(x[:, 1:], dense=x[:, 0], self_interaction=True, impl=impl),
    "fm": lambda x, impl: fm(x, impl=impl),
    "cin": lambda x, impl: cin(map_leaves(lambda v: v.to(x.dtype), _cin), x, impl=impl),
    "cross": lambda x, impl: cross(map_leaves(lambda v: v.to(x.dtype), _cross), x.flatten(1), impl=impl),
    "wukong": lambda x, impl: wukong_layer(map_leaves(lambda v: v.to(x.dtype), _wukong), x, _state, WUKONG, impl=impl)[
        0
    ],
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
compiles = pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled:UserWarning")


def x_of(rows: int) -> Tensor:
    return noise(1, rows, 4, 2)


@each_layer
def test_both_forms_agree(layer: Layer) -> None:
    torch.testing.assert_close(layer(x_of(5), "triton"), layer(x_of(5), "reference"))
    torch.testing.assert_close(layer(x_of(5)[:0], "triton"), layer(x_of(5)[:0], "reference"))


@each_layer
def test_autocast_reaches_the_op(layer: Layer) -> None:
    x = x_of(5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = layer(x, "triton"), layer(x, "reference")
    torch.testing.assert_close(got.double(), layer(x.double(), "reference"), rtol=0.05, atol=0.05)
    torch.testing.assert_close(got.float(), expected.float(), rtol=0.05, atol=0.05)


class Module(torch.nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, "triton")


@compiles
@each_layer
def test_exports_with_a_dynamic_batch(layer: Layer) -> None:
    program = torch.export.export(Module(layer), (x_of(3),), dynamic_shapes={"x": {0: torch.export.Dim("b", min=2)}})
    assert "funcrec" in str(program.graph)
    torch.testing.assert_close(program.module()(x_of(6)), layer(x_of(6), "reference"))


@compiles
@each_layer
def test_compiled_for_any_batch(layer: Layer) -> None:
    torch._dynamo.reset()
    f = torch.compile(lambda x: layer(x, "triton"), fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 4, 6):
        torch.testing.assert_close(f(x_of(rows)), layer(x_of(rows), "reference"))


@compiles
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["dot_dense", "cin"])
def test_inductor_and_aot_inductor(name: str, tmp_path: Any) -> None:
    layer, x = LAYERS[name], x_of(4)
    torch._dynamo.reset()
    gradient = torch.compile(grad(lambda x: layer(x, "triton").sin().sum()), fullgraph=True)
    torch.testing.assert_close(gradient(x), grad(lambda x: layer(x, "reference").sin().sum())(x))
    program = torch.export.export(Module(layer), (x,), dynamic_shapes={"x": {0: torch.export.Dim("b", min=2)}})
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x_of(7)), layer(x_of(7), "reference"))


WITH_IMPL = sorted(name for name, case in CASES.items() if hasattr(case.config, "impl"))


@pytest.mark.parametrize("name", WITH_IMPL)
def test_models_hand_the_choice_down(name: str) -> None:
    case = CASES[name]
    out = []
    for impl in ("reference", "triton"):
        model = case.make(replace(case.config, impl=impl))
        (params, state), (emb, features) = weights(model), inputs(model, 5)

        def objective(p, e, model=model, f=features, s=state):
            return torch.sin(model.apply(p, e, f, s, key=key(2), train=True)[0]).sum()

        out.append(
            [objective(params, emb), *(v for t in grad(objective, argnums=(0, 1))(params, emb) for v in leaves(t))]
        )
        chosen = {d.impl for d in explain(model, features)}
        assert chosen == {impl} or name == "dlrm_cat"
    torch.testing.assert_close(*out)


def test_explain_tells_about_a_gpu_without_one() -> None:
    model = CASES["dlrm"].model()
    features = inputs(model, 5, dtype=torch.float32)[1]
    (here,), (there,) = explain(model, features), explain(model, features, device="cuda", autocast=torch.bfloat16)
    assert (here.impl, here.why) == ("reference", "on a CPU")
    assert (there.impl, there.dtype, there.shapes[0]) == ("triton", torch.bfloat16, (5, 3, 4))
    assert "dot_interaction  triton" in str(explain(model, features, device="cuda"))


def test_an_unsupported_shape_falls_back_or_raises() -> None:
    x = noise(1, 2, registry.dot.MAX_FIELDS + 1, 2)
    with registry.recording("cuda") as decisions:
        torch.testing.assert_close(dot_interaction(x.float()), dot_interaction(x.float(), impl="reference"))
    assert "more than" in decisions[0].why
    with pytest.raises(ConfigError, match=r"dot_interaction: impl='triton': got 129 fields, more than 128.*auto"):
        dot_interaction(x, impl="triton")
    with pytest.raises(ConfigError, match=r"impl: got 'fast'.*'auto', 'reference' or 'triton'"):
        dot_interaction(x, impl="fast")  # type: ignore[arg-type]
