"""Schedules: golden values of the reference system, torch's schedulers, limits; and the plateau controller."""

from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, NonFiniteError
from funcrec.optim import Plateau, Schedule, as_schedule, plateau, schedules, set_scale, sgd


def rates(schedule: Schedule, start: int, stop: int) -> list[float]:
    return [schedule(k) for k in range(start, stop)]


def torch_rates(make, n: int, lr: float = 0.01) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, seen = make(optimizer), []
    for _ in range(n):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def test_golden_values() -> None:
    """The golden lists start after the first tick, at k = 1."""
    decay = schedules.exponential_decay(0.01, 1, 0.7)
    assert rates(decay, 1, 3) == pytest.approx([0.007, 0.0049])
    assert rates(schedules.warmup(decay, 2, 0.005), 1, 4) == pytest.approx([0.0075, 0.01, 0.007])
    manual = schedules.manual_step(0.01, [2, 4, 8], [0.008, 0.004, 0.002])
    assert rates(manual, 1, 11) == [0.01] * 2 + [0.008] * 2 + [0.004] * 4 + [0.002] * 2


def test_exponential_decay_as_torch() -> None:
    smooth = schedules.exponential_decay(0.01, 1, 0.9, staircase=False)
    assert rates(smooth, 0, 9) == pytest.approx(
        torch_rates(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9), 9)
    )
    stairs = schedules.exponential_decay(0.01, 3, 0.5)
    assert rates(stairs, 0, 9) == pytest.approx(torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5), 9))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.floats(0.1, 1.0), st.integers(0, 40))
def test_staircase_is_constant_between_and_equal_on_the_steps(size: int, factor: float, k: int) -> None:
    stairs = schedules.exponential_decay(1.0, size, factor, minimum=0.01)
    smooth = schedules.exponential_decay(1.0, size, factor, staircase=False, minimum=0.01)
    assert stairs(k) == pytest.approx(smooth(k - k % size))
    assert 0.01 <= smooth(k) <= stairs(k) <= 1.0


def test_a_minimum_above_the_rate_is_where_the_schedule_goes() -> None:
    assert rates(schedules.exponential_decay(0.1, 2, minimum=0.3), 0, 5) == [0.3] * 5
    for rising in (schedules.cosine(0.1, 4, 0.3), schedules.linear_decay(0.1, 4, 0.3)):
        assert rates(rising, 0, 6) == sorted(rates(rising, 0, 6))
        assert (rising(0), rising(4)) == pytest.approx((0.1, 0.3))


def test_a_step_at_zero_leaves_the_first_batch_its_rate() -> None:
    assert rates(schedules.manual_step(0.1, [0, 2], [0.2, 0.3]), 0, 4) == [0.1, 0.2, 0.2, 0.3]


@pytest.mark.parametrize("minimum", [0.0, 0.002])
def test_linear_decay_as_torch_until_its_end_then_flat(minimum: float) -> None:
    schedule = schedules.linear_decay(0.01, 5, minimum)
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, minimum / 0.01, 5), 9)
    assert rates(schedule, 0, 9) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("minimum", [0.0, 0.002])
def test_cosine_as_torch_until_its_end_then_flat(minimum: float) -> None:
    schedule = schedules.cosine(0.01, 6, minimum)
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6, minimum), 7)
    assert rates(schedule, 0, 7) == pytest.approx(theirs, abs=1e-9)
    assert rates(schedule, 6, 20) == pytest.approx([minimum] * 14)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.sampled_from([0.0, 0.003]))
def test_cosine_restarts_as_torch(t_0: int, t_mult: int, minimum: float) -> None:
    schedule = schedules.cosine_restarts(0.01, t_0, t_mult, minimum)
    make = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    assert rates(schedule, 0, 40) == pytest.approx(torch_rates(lambda o: make(o, t_0, t_mult, minimum), 40), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 5), st.integers(0, 8))
def test_every_cycle_starts_at_the_top_exactly(t_0: int, t_mult: int, cycle: int) -> None:
    start = sum(t_0 * t_mult**i for i in range(cycle))
    schedule = schedules.cosine_restarts(0.01, t_0, t_mult)
    assert schedule(start) == 0.01
    assert start == 0 or t_0 * t_mult ** (cycle - 1) == 1 or schedule(start - 1) < 0.01


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.floats(0.0, 0.02), st.integers(0, 20))
def test_warmup_is_linear_then_delays(size: int, start: float, k: int) -> None:
    inner = schedules.cosine(0.01, 5)
    schedule = schedules.warmup(inner, size, start)
    assert schedule(0) == pytest.approx(start)
    assert schedule(size + k) == inner(k)
    steps = [b - a for a, b in zip(rates(schedule, 0, size), rates(schedule, 1, size + 1), strict=True)]
    assert steps == pytest.approx([(0.01 - start) / size] * size)


def test_warmup_as_torch_linear_lr() -> None:
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, 1.0, 4), 8)
    assert rates(schedules.warmup(0.01, 4, 0.0025), 0, 8) == pytest.approx(theirs)


def test_manual_step_warmup_interpolates_over_the_first_interval() -> None:
    schedule = schedules.manual_step(0.01, [4, 6], [0.02, 0.005], warmup=True)
    assert rates(schedule, 0, 9) == pytest.approx([0.01, 0.0125, 0.015, 0.0175, 0.02, 0.02, 0.02, 0.005, 0.005])


def test_a_number_is_a_constant_schedule() -> None:
    assert rates(as_schedule(0.3), 0, 3) == [0.3] * 3
    schedule = schedules.cosine(0.1, 3)
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.constant(-1.0),
        lambda: schedules.exponential_decay(0.1, 0),
        lambda: schedules.exponential_decay(0.1, 1, 0.0),
        lambda: schedules.exponential_decay(0.1, 1, minimum=-0.2),
        lambda: schedules.linear_decay(0.1, 0),
        lambda: schedules.linear_decay(0.1, 3, minimum=-0.2),
        lambda: schedules.cosine(0.1, 0),
        lambda: schedules.cosine(0.1, -3),
        lambda: schedules.cosine(0.1, 3, minimum=-0.2),
        lambda: schedules.cosine_restarts(0.1, 0),
        lambda: schedules.cosine_restarts(0.1, 3, 0),
        lambda: schedules.manual_step(0.1, [], []),
        lambda: schedules.manual_step(0.1, [-1], [0.1]),
        lambda: schedules.manual_step(0.1, [0], [0.1], warmup=True),
        lambda: schedules.manual_step(0.1, [3, 3], [0.1, 0.1]),
        lambda: schedules.manual_step(0.1, [3, 4], [0.1]),
        lambda: schedules.manual_step(0.1, [3], [-0.1]),
        lambda: schedules.warmup(0.1, -1),
    ],
)
def test_impossible_schedules_raise(make) -> None:
    with pytest.raises(ConfigError, match="got"):
        make()


def run(controller: Plateau, metrics: list[float]) -> list[float]:
    state, scales = controller.init(), []
    for m in metrics:
        state, scale = controller.update(state, m)
        scales.append(scale)
    return scales


METRICS = st.lists(st.integers(-20, 20).map(lambda i: i / 4), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(METRICS, st.sampled_from(["max", "min"]), st.integers(0, 3), st.sampled_from([0.0, 0.25, 1.0]))
def test_plateau_as_torch(metrics: list[float], mode, patience: int, min_delta: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, 0.5, patience, min_delta, threshold_mode="abs", min_lr=0.1, eps=0.0
    )
    expected = []
    for m in metrics:
        theirs.step(m)
        expected.append(optimizer.param_groups[0]["lr"])
    ours = plateau(mode, factor=0.5, patience=patience, min_delta=min_delta, min_scale=0.1)
    assert run(ours, metrics) == expected


@settings(max_examples=20, deadline=None)
@given(METRICS)
def test_plateau_modes_mirror_each_other(metrics: list[float]) -> None:
    up, down = plateau("max", patience=1), plateau("min", patience=1)
    assert run(up, metrics) == run(down, [-m for m in metrics])


def test_plateau_state_is_a_value_that_survives_a_file() -> None:
    controller = plateau("min", factor=0.5, patience=1)
    state, _ = controller.update(controller.init(), 1.0)
    kept = {k: v.clone() for k, v in state.items()}
    once, _ = controller.update(state, 2.0)
    assert state == kept
    file = io.BytesIO()
    torch.save(once, file)
    file.seek(0)
    assert controller.update(torch.load(file, weights_only=True), 2.0)[1] == 0.5


def test_a_reduced_scale_shrinks_the_step_and_leaves_the_controller_alone() -> None:
    controller, optimizer, leaves = plateau("max", factor=0.25, patience=0), sgd(0.4), [torch.zeros(1)]
    state = {"optimizer": optimizer.init(leaves, ["w"]), "plateau": controller.init()}
    for metric in (1.0, 0.5):
        state["plateau"], scale = controller.update(state["plateau"], metric)
    state = set_scale(state, scale)
    assert state["plateau"]["level"] == 0.25
    (w,), _ = optimizer.step([torch.ones(1)], state["optimizer"], leaves)
    torch.testing.assert_close(w, torch.tensor([-0.1]))


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda: plateau("up"), ConfigError),  # type: ignore[arg-type]
        (lambda: plateau(factor=1.0), ConfigError),
        (lambda: plateau(patience=-1), ConfigError),
        (lambda: plateau(min_scale=2.0), ConfigError),
        (lambda: run(plateau(), [math.nan]), NonFiniteError),
    ],
)
def test_plateau_refuses_nonsense(bad, error: type[Exception]) -> None:
    with pytest.raises(error, match="plateau"):
        bad()
