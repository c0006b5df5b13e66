"""Weight decay on chosen leaves: as an L2 term of the gradient, or decoupled from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.optim import each
from funcrec.optim.base import Optimizer, State, Transform, apply_updates, scalar
from funcrec.optim.checks import finite_non_negative
from funcrec.optim.schedules import Schedule, as_schedule

Where = str | Callable[[str], bool]


def add_decayed_weights(rate: float, where: Where = ".*") -> Transform:
    """``g ← g + rate·w`` on the leaves whose dotted path ``where`` selects: the gradient of ``rate/2·‖w‖²``.

    Args:
        rate: λ.
        where: a regular expression that must match the whole path, or a predicate of it.

    Raises:
        ConfigError: a negative rate; at ``init``, ``where`` selects no leaf.
    """
    finite_non_negative("add_decayed_weights", rate=rate)

    def init(leaves: Sequence[Tensor], paths: Sequence[str]) -> State:
        del leaves
        return {"mask": _mask("add_decayed_weights", where, paths)}

    def update(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[list[Tensor], State]:
        return _add_at(state["mask"], grads, each.mul(_at(state["mask"], leaves), rate)), state

    return Transform(init, update)


def decoupled_decay(
    optimizer: Optimizer, rate: float, learning_rate: float | Schedule, where: Where = ".*"
) -> Optimizer:
    """The optimizer's step, and beside it ``w ← w - lr·rate·w`` on the leaves that ``where`` selects.

    ``decoupled_decay(adam(lr), λ, lr)`` is ``adamw(lr, weight_decay=λ)``.

    Args:
        optimizer: the rule for the gradient.
        rate: λ.
        learning_rate: lr of the decay, usually the optimizer's own.
        where: as in :func:`add_decayed_weights`.

    Raises:
        ConfigError: a negative number; at ``init``, ``where`` selects no leaf.

    Reference: Loshchilov & Hutter 2019, eq. 1.
    """
    finite_non_negative("decoupled_decay", rate=rate, learning_rate=learning_rate)
    schedule = as_schedule(learning_rate)

    def init(leaves: Sequence[Tensor], paths: Sequence[str]) -> State:
        return {
            "step": scalar(0, torch.int64),
            "scale": scalar(1.0, torch.float64),
            "mask": _mask("decoupled_decay", where, paths),
            "optimizer": optimizer.init(leaves, paths),
        }

    def decay(state: State, leaves: Sequence[Tensor]) -> list[Tensor]:
        lr = schedule(int(state["step"])) * float(state["scale"])
        return each.mul(_at(state["mask"], leaves), -lr * rate)

    def update(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[list[Tensor], State]:
        updates, inner = optimizer.update(grads, state["optimizer"], leaves)
        updates = _add_at(state["mask"], updates, decay(state, leaves))
        return updates, {**state, "step": state["step"] + 1, "optimizer": inner}

    def step(
        grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor], *, donate: bool = False
    ) -> tuple[list[Tensor], State]:
        if not donate:
            updates, state = update(grads, state, leaves)
            return apply_updates(leaves, updates), state
        with torch.no_grad():
            decayed = decay(state, leaves)  # read before the inner step overwrites the leaves
            new, inner = optimizer.step(grads, state["optimizer"], leaves, donate=True)
            each.add_(_at(state["mask"], new), decayed)
        return new, {**state, "step": state["step"] + 1, "optimizer": inner}

    return Optimizer(init, update, step)


def _mask(name: str, where: Where, paths: Sequence[str]) -> Tensor:
    """One bool a leaf: a tensor, so that it lives in the state and ``update`` needs no paths."""
    selects = re.compile(where).fullmatch if isinstance(where, str) else where
    chosen = [bool(selects(p)) for p in paths]
    if paths and not any(chosen):
        fail(ConfigError, f"{name}: where={where!r}", got="no leaf selected", expected=f"some of {list(paths)}")
    return torch.tensor(chosen, dtype=torch.bool, device="cpu")


def _at(mask: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    return [w for w, chosen in zip(leaves, mask.tolist(), strict=True) if chosen]


def _add_at(mask: Tensor, values: Sequence[Tensor], terms: Sequence[Tensor]) -> list[Tensor]:
    """``values`` with the next of ``terms`` added at each chosen place."""
    sums = iter(each.add(_at(mask, values), terms))
    return [next(sums) if chosen else v for v, chosen in zip(values, mask.tolist(), strict=True)]
