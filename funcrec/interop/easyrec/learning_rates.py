"""Learning-rate schedules of a TorchEasyRec config, as functions of the number of batches seen."""

from __future__ import annotations

from typing import Any

from funcrec.core.errors import ConfigError, fail
from funcrec.optim import Schedule, schedules

KINDS = (
    "constant_learning_rate",
    "exponential_decay_learning_rate",
    "manual_step_learning_rate",
    "cosine_annealing_learning_rate",
    "cosine_annealing_warm_restarts_learning_rate",
    "linear_decay_learning_rate",
)


def learning_rate(message: Any, base: float, where: str, steps_per_epoch: int | None = None) -> Schedule:
    """The schedule that ``message`` names, from the optimizer's ``lr``.

    Batch k, counted from 0, is trained with ``schedule(k)``: the original's schedulers tick after every batch. With
    ``by_epoch`` they tick after every epoch, so that is ``schedule(k // steps_per_epoch)``. A base of 0 stays 0,
    whatever the schedule.

    Args:
        message: holds the oneof ``learning_rate``.
        base: the optimizer's ``lr``.
        where: the message's name, for errors.
        steps_per_epoch: batches in an epoch, needed with ``by_epoch`` only.

    Raises:
        ConfigError: no learning rate, ``by_epoch`` without ``steps_per_epoch``, or a number outside its range.
    """
    kind = message.WhichOneof("learning_rate")
    if kind is None:
        fail(ConfigError, f"{where}: learning_rate", got="none", expected=f"one of {', '.join(KINDS)}")
    c = getattr(message, kind)
    if kind == "constant_learning_rate" or base == 0.0:
        return schedules.constant(base)
    schedule = _schedule(kind, c, base, f"{where}.{kind}")
    if not c.by_epoch:
        return schedule
    if steps_per_epoch is None or steps_per_epoch < 1:
        what = f"{where}.{kind}: by_epoch with steps_per_epoch"
        fix = "pass steps_per_epoch to init_training, or schedule by step"
        fail(ConfigError, what, got=steps_per_epoch or "None", expected="the number of batches in an epoch", fix=fix)
    return lambda k: schedule(k // steps_per_epoch)


def _schedule(kind: str, c: Any, base: float, where: str) -> Schedule:
    match kind:
        case "exponential_decay_learning_rate":
            inner = schedules.exponential_decay(base, c.decay_size, c.decay_factor, c.staircase, c.min_learning_rate)
        case "manual_step_learning_rate":
            return schedules.manual_step(base, list(c.schedule_sizes), list(c.learning_rates), c.warmup)
        case "cosine_annealing_learning_rate":
            inner = schedules.cosine(base, c.T_max, c.min_learning_rate)
        case "cosine_annealing_warm_restarts_learning_rate":
            inner = schedules.cosine_restarts(base, c.T_0, c.T_mult, c.min_learning_rate)
        case "linear_decay_learning_rate":  # the only horizon that includes the warm-up
            if c.warmup_size >= c.total_size:
                fail(
                    ConfigError,
                    f"{where}: total_size",
                    got=c.total_size,
                    expected=f"more than its warmup_size, {c.warmup_size}",
                )
            inner = schedules.linear_decay(base, c.total_size - c.warmup_size, c.min_learning_rate)
        case _:
            fail(ConfigError, where, got=kind, expected=f"one of {', '.join(KINDS)}")
    return schedules.warmup(inner, c.warmup_size, c.warmup_learning_rate) if c.warmup_size else inner
