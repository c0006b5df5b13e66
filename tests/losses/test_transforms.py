"""Derivatives, transforms, weights and precision: the laws that all losses share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacrev, jvp, vmap

from funcrec import losses
from tests.losses.strategies import NAMES, Case, cases, make_case

# torch loads its own jvp rules with a function that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
quick = settings(max_examples=25, deadline=None)
differentiable = [n for n in NAMES if n != "focal"]  # whose gradient is by definition not that of its value


@pytest.mark.parametrize("name", differentiable)
def test_gradients_to_second_order(name: str) -> None:
    case = make_case(name, 0, rows=4)
    inputs = (case.logits.requires_grad_(), case.weights.requires_grad_())
    f = lambda z, w: case.loss(z, case.labels, w)  # noqa: E731
    assert gradcheck(f, inputs, check_forward_ad=True)
    assert gradgradcheck(f, inputs)


def test_focal_differentiates_only_its_cross_entropy() -> None:
    _, _, z, y, _ = make_case("focal", 5)
    m = 0.3 * y * torch.sigmoid(-z) ** 1.5 + 0.7 * (1 - y) * torch.sigmoid(z) ** 1.5
    fixed = lambda z: (m * torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")).mean()  # noqa: E731
    focal = lambda z: losses.focal(z, y, gamma=1.5, alpha=0.3)  # noqa: E731
    torch.testing.assert_close(grad(focal)(z), grad(fixed)(z))
    torch.testing.assert_close(jacrev(grad(focal))(z), jacrev(grad(fixed))(z))
    tangent = torch.ones_like(z)
    torch.testing.assert_close(jvp(focal, (z,), (tangent,)), jvp(fixed, (z,), (tangent,)))


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_the_gradient_at_logit_zero(name: str) -> None:
    """Where an untrained model starts: |z| and max(z, 0) in a formula would show their corners here."""
    loss = getattr(losses, name)
    y = torch.tensor([0.0, 1.0], dtype=torch.float64)
    got = grad(loss)(torch.zeros(2, dtype=torch.float64), y)
    torch.testing.assert_close(got[0], -got[1])
    assert got[0] > 0


@quick
@given(cases)
def test_per_example_gradients_sum_to_the_batch_gradient(case: Case) -> None:
    if case.name == "jrc":  # compares examples, so it has no gradient of one example
        return
    one = lambda z, y: case.loss(z[None], y[None])  # noqa: E731
    per_example = vmap(grad(one))(case.logits, case.labels)
    batch = grad(lambda z: case.loss(z, case.labels))(case.logits)
    torch.testing.assert_close(per_example / len(case.labels), batch)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_a_loop(name: str) -> None:
    members = [make_case(name, 7), make_case(name, 8)]
    labels, weights = members[0].labels, members[0].weights
    logits = torch.stack([m.logits for m in members])
    f = lambda z: members[0].loss(z, labels, weights)  # noqa: E731
    torch.testing.assert_close(vmap(f)(logits), torch.stack([f(z) for z in logits]))
    torch.testing.assert_close(vmap(grad(f))(logits), torch.stack([grad(f)(z) for z in logits]))
    torch.testing.assert_close(vmap(hessian(f))(logits), torch.stack([hessian(f)(z) for z in logits]))


def test_jrc_maps_over_labels_and_sessions_too() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(3, 6, 2, generator=g)
    y, s = torch.randint(0, 2, (3, 6), generator=g), torch.randint(0, 2, (3, 6), generator=g)
    f = lambda z, y, s: losses.jrc(z, y, sessions=s)  # noqa: E731
    torch.testing.assert_close(vmap(f)(z, y, s), torch.stack([f(z[i], y[i], s[i]) for i in range(3)]))


@pytest.mark.parametrize("name", NAMES)
def test_compiles_as_one_graph(name: str) -> None:
    case = make_case(name, 2)
    f = lambda z, w: case.loss(z, case.labels, w)  # noqa: E731
    torch._dynamo.reset()  # all compiled gradients share one code object, and its limit of recompilations
    compiled = torch.compile(grad(f), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(case.logits, case.weights), grad(f)(case.logits, case.weights))


@quick
@given(cases, st.floats(1e-3, 1e3))
def test_only_the_ratios_of_weights_matter(case: Case, scale: float) -> None:
    z, y, w = case.logits, case.labels, case.weights
    torch.testing.assert_close(case.loss(z, y, w * scale), case.loss(z, y, w))
    torch.testing.assert_close(case.loss(z, y, torch.full_like(w, scale)), case.loss(z, y))
    assert losses.normalize_weights(w).sum().item() == pytest.approx(len(w))


@quick
@given(cases)
def test_order_of_the_rows_does_not_matter(case: Case) -> None:
    if case.name == "jrc":
        return
    order = torch.arange(len(case.labels)).flip(0)
    flipped = case.loss(case.logits[order], case.labels[order], case.weights[order])
    torch.testing.assert_close(flipped, case.loss(case.logits, case.labels, case.weights))


def test_an_integer_weight_is_a_repetition() -> None:
    for name in ("bce", "l2", "softmax"):
        case = make_case(name, 11, rows=3)
        times = torch.tensor([1, 3, 2])
        z, y = case.logits.repeat_interleave(times, 0), case.labels.repeat_interleave(times)
        torch.testing.assert_close(case.loss(case.logits, case.labels, times), case.loss(z, y))


def test_weights_of_mean_zero_give_zero_with_finite_gradients() -> None:
    z = torch.tensor([1.0, -2.0])
    y, w = torch.tensor([1, 0]), torch.zeros(2)
    assert losses.bce(z, y, w) == 0
    assert grad(lambda w: losses.bce(z, y, w))(w).isfinite().all()
    assert losses.bce(z, y, torch.tensor([1.0, float("nan")])).isnan()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision(name: str, dtype: torch.dtype) -> None:
    case = make_case(name, 4)
    z: Tensor = case.logits.to(dtype)
    got = case.loss(z, case.labels, case.weights)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(got.double(), case.loss(z.double(), case.labels, case.weights), rtol=1e-6, atol=1e-7)
    assert grad(lambda z: case.loss(z, case.labels))(z).dtype == dtype


@pytest.mark.parametrize("name", ["bce", "focal", "l2"])
def test_one_column_is_a_vector(name: str) -> None:
    case = make_case(name, 6)
    torch.testing.assert_close(case.loss(case.logits[:, None], case.labels), case.loss(case.logits, case.labels))
