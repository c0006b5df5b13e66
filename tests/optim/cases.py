"""The optimizers that the laws quantify over, and leaves to run them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from funcrec.optim import (
    Optimizer,
    adadelta,
    adagrad,
    adam,
    adamw,
    add_decayed_weights,
    chain,
    clip_by_global_norm,
    clip_by_value,
    decoupled_decay,
    groups,
    lamb,
    rmsprop,
    schedules,
    sgd,
)

SHAPES = ((3, 4), (4,), (), (2, 1, 3), (0, 5))
PATHS = ("deep.0.weight", "deep.0.bias", "scale", "cin.filters", "empty")

RULES: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: sgd(0.1),
    "sgd_l2": lambda: sgd(0.1, weight_decay=0.3),
    "momentum": lambda: sgd(0.1, 0.9, dampening=0.2, weight_decay=0.01),
    "nesterov": lambda: sgd(schedules.exponential_decay(0.1, 2, 0.5), 0.9, nesterov=True),
    "adam": lambda: adam(0.05, (0.8, 0.95)),
    "adam_l2": lambda: adam(schedules.cosine(0.05, 4), weight_decay=0.1),
    "adamw": lambda: adamw(0.05, weight_decay=0.1),
    "adagrad": lambda: adagrad(0.1, initial_accumulator=0.1, weight_decay=0.1),
    "amsgrad": lambda: adam(0.05, (0.5, 0.6), amsgrad=True),
    "adamw_amsgrad": lambda: adamw(0.05, (0.5, 0.6), weight_decay=0.1, amsgrad=True),
    "rmsprop": lambda: rmsprop(0.05, 0.8, weight_decay=0.1),
    "adadelta": lambda: adadelta(0.5, 0.8, 1e-2, weight_decay=0.1),
    "lamb": lambda: lamb(0.05, weight_decay=0.1),
}
COMPOSED: dict[str, Callable[[], Optimizer]] = {
    "clipped": lambda: chain(clip_by_value(0.5), clip_by_global_norm(1.0), adam(0.05)),
    "decayed": lambda: chain(add_decayed_weights(0.1, r".*weight|scale"), sgd(0.1, 0.9)),
    "decoupled": lambda: decoupled_decay(adagrad(0.1), 0.1, 0.2, r"deep\..*"),
    "grouped": lambda: groups([(r".*bias", sgd(0.1, 0.9)), (r"deep\..*", adamw(0.1))], default=lamb(0.05)),
    "nested": lambda: chain(clip_by_global_norm(2.0), groups([("scale", chain(sgd(0.1)))], default=adam(0.1))),
}
ALL = {**RULES, **COMPOSED}


def draw(seed: int, shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]


def tensors(state: Any) -> list[Tensor]:
    """Every tensor of a nested state, which must hold nothing else."""
    if isinstance(state, Tensor):
        return [state]
    assert type(state) in (dict, list, tuple), type(state)
    return [t for v in (state.values() if isinstance(state, dict) else state) for t in tensors(v)]


def close(a: Sequence[Tensor], b: Sequence[Tensor], tol: float = 1e-12) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=tol, atol=tol)


def trajectory(optimizer: Optimizer, leaves: Sequence[Tensor], steps: int, **step: bool) -> list[Tensor]:
    """Leaves after some steps along fixed random gradients."""
    leaves, state = [w.clone() for w in leaves], optimizer.init(leaves, PATHS)
    for i in range(steps):
        grads = draw(100 + i, [tuple(w.shape) for w in leaves], leaves[0].dtype)
        leaves, state = optimizer.step(grads, state, leaves, **step)
    return list(leaves)
