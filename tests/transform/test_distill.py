"""The losses of a student against its teacher: slow loops, limits, where the gradient goes and where it is zero."""

import math
from decimal import Decimal, localcontext
from functools import partial

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap
from torch.nn.functional import kl_div, log_softmax

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.random import fold_in, key, normal, uniform
from funcrec.transform import cosine_similarity, euclid, hint, inner_product, soft_labels
from funcrec.transform.distill import SIMILARITIES

LOSSES = SIMILARITIES | {"hint": hint, "soft_labels": partial(soft_labels, temperature=2.0)}
MEET = sorted(set(LOSSES) - {"inner_product"})  # those with no slope where the student equals its teacher
every_loss = pytest.mark.parametrize("name", sorted(LOSSES))
seeds, rows, widths = st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4)


def sides(seed, b, d, dtype=torch.float64):
    k = key(seed)
    s, t = (normal(fold_in(k, name), (b, d), dtype=dtype) for name in ("student", "teacher"))
    return s, t, uniform(fold_in(k, "weight"), (b,), 0.1, 3.0, dtype)


def slow(name, s, t, w):
    """The value by loops over numbers."""
    b, d = s.shape
    s, t, w = s.tolist(), t.tolist(), w.tolist()
    w = [x * b / sum(w) for x in w]
    dot = lambda x, y: sum(p * q for p, q in zip(x, y, strict=True))  # noqa: E731
    square = lambda i: sum((s[i][c] - t[i][c]) ** 2 for c in range(d))  # noqa: E731

    def divergence(i):
        # one logit z has the probabilities of the two logits (0, z)
        logits = ([0.0, *z] if d == 1 else z for z in (t[i], s[i]))
        p, q = ([math.exp(x / 2) / sum(math.exp(y / 2) for y in z) for x in z] for z in logits)
        return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))

    if name == "batch_euclid":
        return math.sqrt(sum(w[i] * square(i) for i in range(b)))
    one = {
        "hint": lambda i: square(i) / d,
        "soft_labels": lambda i: 4 * divergence(i),
        "cosine": lambda i: -0.1 * dot(s[i], t[i]) / math.sqrt(dot(s[i], s[i]) * dot(t[i], t[i])),
        "inner_product": lambda i: -0.1 * dot(s[i], t[i]),
        "euclid": lambda i: math.sqrt(square(i)),
    }[name]
    return sum(w[i] * one(i) for i in range(b)) / b


@every_loss
@given(seed=seeds, b=rows, d=widths)
def test_the_value_is_the_slow_loop(name, seed, b, d):
    s, t, w = sides(seed, b, d)
    ones = torch.ones_like(w)
    assert float(LOSSES[name](s, t, w)) == pytest.approx(slow(name, s, t, w), rel=1e-9, abs=1e-12)
    assert float(LOSSES[name](s, t)) == pytest.approx(slow(name, s, t, ones), rel=1e-9, abs=1e-12)


@every_loss
@given(seed=seeds, b=rows, d=widths, factor=st.floats(0.01, 100))
def test_only_the_ratios_of_weights_count_and_none_count_for_nothing(name, seed, b, d, factor):
    s, t, w = sides(seed, b, d)
    torch.testing.assert_close(LOSSES[name](s, t, factor * w), LOSSES[name](s, t, w))
    nothing = lambda x: LOSSES[name](x, t, torch.zeros_like(w))  # noqa: E731
    assert float(nothing(s)) == 0
    assert bool((grad(nothing)(s) == 0).all())


@every_loss
@given(seed=seeds, b=rows, d=widths)
def test_derivatives_and_a_teacher_that_stays(name, seed, b, d):
    s, t, w = sides(seed, b, d)
    assert bool((grad(lambda x: LOSSES[name](s, x, w))(t) == 0).all())
    assert bool((jvp(lambda x: LOSSES[name](s, x, w), (t,), (torch.ones_like(t),))[1] == 0).all())
    both = partial(LOSSES[name], cotrain=True)
    torch.testing.assert_close(both(s, t, w), LOSSES[name](s, t, w), rtol=0, atol=0)
    if d == 1 and name == "cosine":
        return  # a sign: no slope but at 0
    moving = [x.clone().requires_grad_() for x in (s, t, w)]
    assert gradcheck(both, moving, check_forward_ad=True)
    assert gradgradcheck(both, moving)
    assert bool((grad(lambda x: both(s, x, w))(t) != 0).any())


@pytest.mark.parametrize("name", MEET)
@given(seed=seeds, b=rows, d=widths, cotrain=st.booleans())
def test_a_student_that_equals_its_teacher_has_arrived(name, seed, b, d, cotrain):
    s, _, w = sides(seed, b, d)
    f = lambda x, y: LOSSES[name](x, y, w, cotrain=cotrain)  # noqa: E731
    gradients = grad(f, argnums=(0, 1))(s, s.clone())
    curvature = jvp(lambda x: grad(f)(x, s.clone()), (s,), (torch.ones_like(s),))[1]
    for g in gradients:
        torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-12)
    assert bool(curvature.isfinite().all())
    if name != "cosine":
        assert float(f(s, s)) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", ["euclid", "batch_euclid"])
@given(seed=seeds, b=rows)
def test_one_row_that_has_arrived_leaves_the_others_their_gradient(name, seed, b):
    s, t, w = sides(seed, b + 1, 3)
    t[0] = s[0]
    g = grad(LOSSES[name])(s, t, w)
    assert bool((g[0] == 0).all())
    assert bool((g[1:] != 0).all())


@given(seed=seeds, b=rows, d=widths, scale=st.floats(0.01, 10))
def test_the_cosine_is_bounded_reaches_its_bounds_and_knows_no_length(seed, b, d, scale):
    s, t, w = sides(seed, b, d)
    f = partial(cosine_similarity, scale=scale)
    assert abs(float(f(s, t, w))) <= scale * (1 + 1e-12)
    assert float(f(3 * t, t, w)) == pytest.approx(-scale)
    assert float(f(-t, t, w)) == pytest.approx(scale)
    torch.testing.assert_close(f(7 * s, 0.2 * t, w), f(s, t, w))
    assert float(cosine_similarity(t, t)) == pytest.approx(-0.1)


@given(seed=seeds, side=st.sampled_from([0, 1]))
def test_rows_of_zeros_have_no_cosine_and_no_gradient(seed, side):
    pair = list(sides(seed, 3, 2)[:2])
    whole = cosine_similarity(pair[0][1:], pair[1][1:])
    pair[side][0] = 0.0
    torch.testing.assert_close(cosine_similarity(*pair), whole * 2 / 3)
    g = grad(partial(cosine_similarity, cotrain=True), argnums=(0, 1))(*pair)
    assert bool(g[0].isfinite().all() and g[1].isfinite().all())
    assert bool((g[side][0] == 0).all())


@given(seed=seeds, b=rows)
def test_the_inner_product_is_bilinear_and_the_distance_homogeneous(seed, b):
    s, t, w = sides(seed, b, 3)
    torch.testing.assert_close(inner_product(3 * s, 2 * t, w), 6 * inner_product(s, t, w))
    torch.testing.assert_close(inner_product(s + t, t, w), inner_product(s, t, w) + inner_product(t, t, w))
    torch.testing.assert_close(euclid(3 * s, 3 * t, w), 3 * euclid(s, t, w))


def test_the_distance_of_a_whole_batch_grows_with_it_and_that_of_a_row_does_not():
    s, t, w = sides(0, 3, 2)
    s4, t4, w4 = s.repeat(4, 1), t.repeat(4, 1), w.repeat(4)
    torch.testing.assert_close(euclid(s4, t4, w4), euclid(s, t, w))
    torch.testing.assert_close(euclid(s4, t4, w4, whole_batch=True), 2 * euclid(s, t, w, whole_batch=True))


@given(seed=seeds, b=rows, d=widths, temperature=st.floats(0.2, 20))
def test_soft_labels_are_hinton_s(seed, b, d, temperature):
    """Against torch's divergence, and by the gradient of the paper: T (q - p) / B in the student's logits."""
    s, t, _ = sides(seed, b, d)
    f = partial(soft_labels, temperature=temperature)
    # one logit z is the pair of logits (0, z)
    s2, t2 = (torch.cat([torch.zeros_like(x), x], 1) if d == 1 else x for x in (s, t))
    expected = kl_div(
        log_softmax(s2 / temperature, 1), log_softmax(t2 / temperature, 1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(f(s, t), temperature**2 * expected)
    torch.testing.assert_close(f(s2, t2), f(s, t))
    p, q = ((x / temperature).softmax(1)[:, -d:] for x in (t2, s2))
    torch.testing.assert_close(grad(f)(s, t), temperature * (q - p) / b)


def exact_divergence(t: float, s: float) -> tuple[float, float]:
    """KL of the sigmoids of two logits, and its slope in s, with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        p, q = (1 / (1 + (-Decimal(z)).exp()) for z in (t, s))
        return float(p * (p / q).ln() + (1 - p) * ((1 - p) / (1 - q)).ln()), float(q - p)


@given(s=st.floats(20.5, 30), t=st.floats(20.5, 30), sign=st.sampled_from([1, -1]))
@example(s=30.0, t=21.0, sign=1)
@example(s=30.0, t=29.5, sign=1)
def test_soft_labels_of_one_confident_logit_keep_their_digits(s, t, sign):
    """Far beyond where float32 could tell its softplus from z itself, the loss still is one, and has its slope."""
    value, slope = exact_divergence(sign * t, sign * s)
    student, teacher = (torch.tensor([[sign * z]], dtype=torch.float64) for z in (s, t))
    f = partial(soft_labels, temperature=1.0)
    assert float(f(student, teacher)) == pytest.approx(value, rel=1e-4, abs=3e-14)
    assert float(grad(f)(student, teacher)) == pytest.approx(slope, rel=1e-3, abs=3e-16)


@given(seed=seeds, length=st.floats(1e-30, 9e-13), cotrain=st.booleans())
def test_a_row_too_short_for_a_direction_has_no_cosine_and_no_slope(seed, length, cotrain):
    """Exactly none: 1 / length would be the largest gradient of the batch."""
    s, t, _ = sides(seed, 2, 3)
    s[0] *= length / s[0].norm()
    f = partial(cosine_similarity, cotrain=cotrain)
    g = grad(f, argnums=(0, 1))(s, t)
    assert bool((g[0][0] == 0).all() and (g[1][0] == 0).all())
    assert bool((g[0][1] != 0).any())
    torch.testing.assert_close(f(s, t), f(s[1:], t[1:]) / 2)


@given(seed=seeds, b=rows, d=widths)
def test_hot_soft_labels_are_the_hint_of_centred_logits(seed, b, d):
    s, t, w = sides(seed, b, d)
    if d == 1:
        limit = lambda x: hint(x, t, w) / 8  # noqa: E731
    else:
        limit = lambda x: hint(x - x.mean(1, keepdim=True), t - t.mean(1, keepdim=True), w) / 2  # noqa: E731
    hot = lambda x: soft_labels(x, t, w, temperature=1e4)  # noqa: E731
    torch.testing.assert_close(hot(s), limit(s), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(grad(hot)(s), grad(limit)(s), rtol=1e-3, atol=1e-4)


@every_loss
def test_maps_over_students_and_compiles(name):
    s, t, w = sides(0, 4, 3)
    students = torch.stack([s, t, s - t])
    f = lambda x: LOSSES[name](x, t, w)  # noqa: E731
    torch.testing.assert_close(vmap(f)(students), torch.stack([f(x) for x in students]))
    torch.testing.assert_close(vmap(grad(f))(students), torch.stack([grad(f)(x) for x in students]))
    compiled = torch.compile(lambda x: grad(f)(x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(s), grad(f)(s))


@every_loss
def test_extreme_numbers_stay_finite_and_half_precision_is_widened(name):
    s, t, w = sides(0, 3, 2, torch.float32)
    for x in (1e3 * s, 1e-15 * s):
        value, slope = LOSSES[name](x, t, w), grad(LOSSES[name])(x, t, w)
        assert bool(value.isfinite())
        assert bool(slope.isfinite().all())
    half = LOSSES[name](s.bfloat16(), t.bfloat16(), w)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, LOSSES[name](s.bfloat16().float(), t.bfloat16().float(), w))


@every_loss
@pytest.mark.parametrize("shapes", [((3, 1), (3, 2)), ((3,), (3,)), ((3, 2), (2, 2)), ((0, 2), (0, 2))])
def test_two_shapes_are_refused(name, shapes):
    with pytest.raises(ShapeError, match=r"student and teacher: got .* expected one shape \[B, D\]"):
        LOSSES[name](*(torch.zeros(shape) for shape in shapes))


@every_loss
def test_weights_of_another_shape_are_refused(name):
    with pytest.raises(ShapeError, match="loss weights"):
        LOSSES[name](torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 1))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ConfigError, match="temperature"):
        soft_labels(torch.zeros(1, 1), torch.zeros(1, 1), temperature=temperature)
