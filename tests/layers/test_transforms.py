"""The contract of every layer: pure, and closed under grad, vmap, vmap(grad), jvp, second order, compile and export."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad, jvp, vmap

from funcrec.core.groups import Field, Group
from funcrec.core.random import key
from funcrec.core.tree import leaves, map_leaves, paths, stack, tree, unflatten
from funcrec.layers.cross_v2 import cross_v2, init_cross_v2
from funcrec.layers.dot import dot_interaction
from funcrec.layers.fm import fm
from funcrec.layers.inputs import group_vector
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp
from tests.layers.cases import F64, Case, jitter, noise
from tests.layers.table import CASES

each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
# A stale graph was served from the cache once. Disabling the caches is itself announced by a warning.
compiles = pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled:UserWarning")


@pytest.fixture
def no_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    torch._dynamo.reset()


def loss(case: Case, params: TensorDict, x: Tensor) -> Tensor:
    """A scalar whose first and second derivatives see every output element with a weight of its own."""
    y = case.f(params, x)
    return (noise(5, *y.shape) * y).sum() + 0.1 * (y * y).sum()


@each_case
def test_gradcheck_in_every_mode(case: Case) -> None:
    names = paths(case.params)

    def f(x: Tensor, *values: Tensor) -> Tensor:
        return case.f(unflatten(names, values), x)

    inputs = [v.detach().clone().requires_grad_() for v in (case.x, *leaves(case.params))]
    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, inputs, check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True)


@each_case
def test_jvp_is_the_finite_difference(case: Case) -> None:
    direction = (map_leaves(lambda v: noise(11, *v.shape), case.params), noise(12, *case.x.shape))
    tangent = jvp(case.f, (case.params, case.x), direction)[1]

    def moved(step: float) -> Tensor:
        return case.f(case.params + direction[0] * step, case.x + direction[1] * step)

    torch.testing.assert_close(tangent, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-7)


@each_case
def test_forward_over_reverse_is_reverse_over_reverse(case: Case) -> None:
    v = noise(12, *case.x.shape)
    gradient = lambda x: grad(loss, argnums=2)(case, case.params, x)  # noqa: E731
    forward = jvp(gradient, (case.x,), (v,))[1]
    reverse = grad(lambda x: (gradient(x) * v).sum())(case.x)
    torch.testing.assert_close(forward, reverse)


@each_case
def test_vmap_of_grad_over_members_is_the_loop(case: Case) -> None:
    members = [jitter(case.params, seed, 0.1) for seed in range(3)]
    xs = torch.stack([case.x + 0.1 * noise(20 + i, *case.x.shape) for i in range(3)])
    member_grad = grad(lambda p, x: loss(case, p, x), argnums=(0, 1))
    got_p, got_x = vmap(member_grad)(stack(members), xs)
    for i, member in enumerate(members):
        expected_p, expected_x = member_grad(member, xs[i])
        torch.testing.assert_close(got_x[i], expected_x)
        assert paths(got_p) == paths(expected_p)
        for got, expected in zip(leaves(got_p), leaves(expected_p), strict=True):
            torch.testing.assert_close(got[i], expected)


@each_case
def test_inputs_are_not_written(case: Case) -> None:
    inputs = [case.x, *leaves(case.params)]
    before = [v.clone() for v in inputs]
    versions = [v._version for v in inputs]
    grad(loss, argnums=(1, 2))(case, case.params, case.x)
    assert [v._version for v in inputs] == versions
    torch.testing.assert_close(inputs, before, rtol=0, atol=0)


@pytest.mark.parametrize("case", [c for c in CASES if c.rowwise], ids=lambda c: c.name)
def test_rows_do_not_see_each_other(case: Case) -> None:
    together = case.f(case.params, case.x)
    apart = torch.cat([case.f(case.params, row) for row in case.x.split(1)])
    torch.testing.assert_close(together, apart)


@compiles
@each_case
def test_compiled_forward_and_backward_are_the_eager_ones(case: Case, no_caches: None) -> None:
    x = case.x.clone().requires_grad_()
    params = map_leaves(lambda v: v.clone().requires_grad_(), case.params)
    y = torch.compile(case.f, fullgraph=True, backend="aot_eager")(params, x)
    expected = case.f(params, x)
    torch.testing.assert_close(y, expected)
    inputs = [x, *leaves(params)]
    weights = noise(5, *y.shape)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, weights), torch.autograd.grad(expected, inputs, weights))


def composed(params: TensorDict, x: Tensor, raw: Tensor) -> Tensor:
    """A small ranking model out of the layers: a group vector, a deep tower, a cross tower, two pair interactions."""
    emb, batch = TensorDict({"g": x}, batch_size=[]), TensorDict({"dense": {"raw": raw}}, batch_size=[])
    vector = group_vector(GROUP, emb, batch)
    hidden, _ = mlp(params["deep"], vector, DEEP_STATE, DEEP)
    return torch.cat([hidden, fm(x), dot_interaction(x), cross_v2(params["cross"], vector)], dim=1)


GROUP = Group("g", (*(Field(n, 2) for n in "abc"), Field("raw", 1, dense=True)))
DEEP = MLPConfig(hidden_units=(4,), use_bn=True, activation="Dice")
DEEP_PARAMS, DEEP_STATE = init_mlp(key(0), GROUP.width, DEEP, F64)
PARAMS = tree({"cross": init_cross_v2(key(1), GROUP.width, 2, 2, dtype=F64), "deep": jitter(DEEP_PARAMS)})


def composed_inputs(batch: int) -> tuple[Tensor, Tensor]:
    return noise(1, batch, 3, 2), noise(2, batch, 1)


@compiles
def test_the_compiled_gradient_of_a_composition_is_the_eager_one(no_caches: None) -> None:
    gradient = grad(lambda p, x, raw: composed(p, x, raw).square().mean(), argnums=(0, 1))
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    got, expected = compiled(PARAMS, *composed_inputs(4)), gradient(PARAMS, *composed_inputs(4))
    assert paths(got[0]) == paths(expected[0])
    torch.testing.assert_close([got[1], *leaves(got[0])], [expected[1], *leaves(expected[0])])


@compiles
def test_an_exported_composition_takes_any_batch(no_caches: None) -> None:
    class Scorer(torch.nn.Module):
        def forward(self, x: Tensor, raw: Tensor) -> Tensor:
            return composed(PARAMS, x, raw)

    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(Scorer(), composed_inputs(4), dynamic_shapes=({0: rows}, {0: rows}))
    for batch in (2, 7):
        torch.testing.assert_close(program.module()(*composed_inputs(batch)), composed(PARAMS, *composed_inputs(batch)))


@compiles
@pytest.mark.slow
def test_inductor_code_of_the_pair_interactions(no_caches: None) -> None:
    """The generated scatter behind the gather of :func:`dot_interaction`."""
    gradient = grad(lambda x: dot_interaction(x).square().sum() + fm(x).square().sum())
    x = noise(1, 3, 5, 3)
    torch.testing.assert_close(torch.compile(gradient, fullgraph=True)(x), gradient(x))
