"""Clipping, decay masks and per-path groups: each against its plain definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError
from funcrec.optim import (
    Transform,
    adam,
    adamw,
    add_decayed_weights,
    chain,
    clip_by_global_norm,
    clip_by_value,
    clip_factor,
    decoupled_decay,
    global_norm,
    groups,
    sgd,
)
from tests.optim.cases import PATHS, close, draw, tensors, trajectory


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.floats(0.01, 20.0), st.sampled_from([1.0, 2.0, 3.0, math.inf]))
def test_clipping_by_norm_is_clip_grad_norm(seed: int, max_norm: float, norm_type: float) -> None:
    leaves, grads = [w for w in draw(seed) if w.numel()], [g for g in draw(seed + 1) if g.numel()]
    parameters = [torch.nn.Parameter(w) for w in leaves]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
    close([global_norm(grads, norm_type)], [norm])
    clipped, _ = clip_by_global_norm(max_norm, norm_type).update(grads, {}, leaves)
    close(clipped, [p.grad for p in parameters if p.grad is not None])
    assert global_norm(clipped, norm_type) <= max_norm


def test_global_norm_is_that_of_the_concatenation_also_under_transforms() -> None:
    grads = draw(0)
    flat = torch.cat([g.reshape(-1) for g in grads])
    close([global_norm(grads)], [flat.norm()])
    close([torch.func.grad(lambda x: global_norm([x, 2 * x]))(grads[0])], [5**0.5 * grads[0] / grads[0].norm()])
    stacked = draw(1, [(3, 4, 2), (3, 5)])
    norms = torch.vmap(lambda a, b: global_norm([a, b]))(*stacked)
    close([norms], [torch.cat([g.reshape(3, -1) for g in stacked], 1).norm(dim=1)])
    assert global_norm([]) == 0


def test_global_norm_of_half_precision_is_summed_in_float32() -> None:
    grads = [torch.full((1000,), 300.0, dtype=torch.float16), torch.ones(3, dtype=torch.bfloat16)]
    norm = global_norm(grads)
    assert norm.dtype == torch.float32
    torch.testing.assert_close(norm, torch.tensor(math.sqrt(9e7 + 3)))


def test_clip_factor_never_enlarges_and_never_hides_a_nan() -> None:
    assert clip_factor(torch.tensor(0.0), 1.0) == 1.0
    assert clip_factor(torch.tensor(0.5), 1.0) == 1.0
    assert clip_factor(torch.tensor(math.inf), 1.0) == 0.0
    assert clip_factor(torch.tensor(math.nan), 1.0).isnan()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(0.01, 3.0))
def test_clipping_by_value_is_clip_grad_value(seed: int, max_value: float) -> None:
    grads = draw(seed)
    clipped, _ = clip_by_value(max_value).update(grads, {}, grads)
    for c, g in zip(clipped, grads, strict=True):
        assert torch.equal(c, torch.where(g.abs() > max_value, g.sign() * max_value, g))


def test_transforms_run_in_order() -> None:
    grads, leaves = [torch.tensor([3.0, 4.0])], [torch.zeros(2)]

    def first_step(*transforms: Transform) -> torch.Tensor:
        optimizer = chain(*transforms, sgd(1.0))
        return optimizer.step(grads, optimizer.init(leaves, ["w"]), leaves)[0][0]

    by_norm, by_value = clip_by_global_norm(1.0), clip_by_value(0.7)
    torch.testing.assert_close(first_step(by_norm, by_value), torch.tensor([-0.6, -0.7]))
    torch.testing.assert_close(first_step(by_value, by_norm), torch.tensor([-0.7, -0.7]))


@pytest.mark.parametrize("donate", [False, True])
def test_an_l2_transform_is_the_optimizers_own_weight_decay(donate: bool) -> None:
    ours = trajectory(chain(add_decayed_weights(0.3), adam(0.1)), draw(0), 4, donate=donate)
    close(ours, trajectory(adam(0.1, weight_decay=0.3), draw(0), 4))


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("where", [r"deep\..*|cin.*", lambda path: "." in path], ids=["regex", "predicate"])
def test_decay_reaches_the_chosen_leaves_only(where, donate: bool) -> None:
    chosen = [0, 1, 3]
    for plain, full, masked in (
        (sgd(0.1, 0.9), sgd(0.1, 0.9, weight_decay=0.3), chain(add_decayed_weights(0.3, where), sgd(0.1, 0.9))),
        (adam(0.1), adamw(0.1, weight_decay=0.3), decoupled_decay(adam(0.1), 0.3, 0.1, where)),
    ):
        without, everywhere = trajectory(plain, draw(0), 3), trajectory(full, draw(0), 3)
        expected = [everywhere[i] if i in chosen else without[i] for i in range(5)]
        close(trajectory(masked, draw(0), 3, donate=donate), expected)


@pytest.mark.parametrize(
    "make", [lambda w: add_decayed_weights(0.1, w), lambda w: decoupled_decay(sgd(0.1), 0.1, 0.1, w)]
)
def test_a_decay_that_selects_nothing_raises_and_names_the_paths(make) -> None:
    with pytest.raises(ConfigError, match=r"deeep.*deep\.0\.weight"):
        make(r"deeep\..*").init(draw(0), PATHS)
    with pytest.raises(ConfigError, match="no leaf selected"):
        make("bias").init(draw(0), PATHS)  # the whole path must match


@pytest.mark.parametrize("donate", [False, True])
def test_groups_are_each_optimizer_run_alone_on_its_leaves(donate: bool) -> None:
    parts = {r".*\.bias": sgd(0.1, 0.9), r"deep\..*": adamw(0.1)}
    default = adam(0.05)
    optimizer = groups(list(parts.items()), default)
    owners = [adamw(0.1), sgd(0.1, 0.9), default, default, default]
    expected = [trajectory(o, draw(0), 3)[i] for i, o in enumerate(owners)]
    close(trajectory(optimizer, draw(0), 3, donate=donate), expected)


def test_the_first_pattern_wins_and_matches_whole_paths() -> None:
    leaves = draw(0)
    group = groups([("deep.*", sgd(0.1)), (".*scale", sgd(0.2))], adam(0.1)).init(leaves, PATHS)["group"]
    assert group.tolist() == [0, 0, 1, 2, 2]
    assert tensors(groups([], adam(0.1)).init(leaves, PATHS))[0].tolist() == [0] * 5


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["weight"], r"pattern 'weight'.*deep\.0\.weight"),
        ([r"deep\..*", r".*bias"], "earlier pattern"),
        (["("], "regular expression"),
    ],
)
def test_a_pattern_without_leaves_raises(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        groups([(p, sgd(0.1)) for p in patterns], adam(0.1)).init(draw(0), PATHS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: clip_by_global_norm(0.0),
        lambda: clip_by_global_norm(float("nan")),
        lambda: clip_by_value(float("inf")),
        lambda: add_decayed_weights(-1.0),
        lambda: decoupled_decay(sgd(0.1), 0.1, -1.0),
    ],
)
def test_bad_settings_raise(make) -> None:
    with pytest.raises(ConfigError, match="got"):
        make()
