"""Optimizers as values: a named tuple of functions over *leaf lists*, composed by ``chain``.

A parameter tree is flattened once by its owner; an optimizer sees lists of tensors and the dotted path of each. State
is nested plain dicts, lists and tuples of tensors, so that ``torch.load(weights_only=True)`` takes it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.optim import each

State = Any  # nested plain dict / list / tuple of tensors
InitFn = Callable[[Sequence[Tensor], Sequence[str]], State]
UpdateFn = Callable[[Sequence[Tensor], State, Sequence[Tensor]], tuple[list[Tensor], State]]


class StepFn(Protocol):
    """``(grads, state, leaves, donate=False) -> (new leaves, state)``."""

    def __call__(
        self, grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor], *, donate: bool = False
    ) -> tuple[list[Tensor], State]: ...


class Optimizer(NamedTuple):
    """An optimizer: three functions that hold no state of their own.

    ``init(leaves, paths) -> state``.
    ``update(grads, state, leaves) -> (updates, state)`` is pure; add the updates with :func:`apply_updates`.
    ``step(grads, state, leaves, donate=False) -> (leaves, state)`` does both. With ``donate=True`` it writes into the
    leaves and may write into the state: those given are dead afterwards. Its numbers are those of ``update`` up to
    rounding; gradients are never written.
    """

    init: InitFn
    update: UpdateFn
    step: StepFn


class Transform(NamedTuple):
    """A pure map of gradients that runs before an optimizer: ``update(grads, state, leaves) -> (grads, state)``."""

    init: InitFn
    update: UpdateFn


def apply_updates(leaves: Sequence[Tensor], updates: Sequence[Tensor]) -> list[Tensor]:
    """``leaf + update`` for every leaf, as new tensors."""
    check_matching(updates, leaves, "update")
    return each.add(leaves, updates)


def check_matching(values: Sequence[Tensor], leaves: Sequence[Tensor], noun: str = "gradient") -> None:
    """Raise unless ``values`` are one tensor a leaf, of its shape and dtype.

    Unchecked, foreach would broadcast a smaller tensor, and a fused kernel would read past its end.
    """
    if len(values) != len(leaves):
        fail(ShapeError, f"{noun}s", got=f"{len(values)} tensors", expected=f"{len(leaves)}, one a leaf")
    for i, (x, leaf) in enumerate(zip(values, leaves, strict=True)):
        if x.shape != leaf.shape or x.dtype != leaf.dtype:
            fail(
                ShapeError,
                f"{noun} {i}",
                got=f"{tuple(x.shape)} {x.dtype}",
                expected=f"{tuple(leaf.shape)} {leaf.dtype}, as its leaf",
            )


def chain(*parts: Transform | Optimizer) -> Optimizer:
    """Gradient transforms in order, then an optimizer: ``chain(clip_by_global_norm(1.0), adam(1e-3))``.

    Raises:
        ConfigError: the last part is not an optimizer, or another one is.
    """
    *transforms, optimizer = parts or (None,)
    if not isinstance(optimizer, Optimizer) or not all(isinstance(t, Transform) for t in transforms):
        got = [type(p).__name__ for p in parts]
        fail(ConfigError, "chain", got=got, expected="transforms, then one optimizer", fix="put the optimizer last")

    def init(leaves: Sequence[Tensor], paths: Sequence[str]) -> State:
        return {"transforms": [t.init(leaves, paths) for t in transforms], "optimizer": optimizer.init(leaves, paths)}

    def transformed(
        grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[State]]:
        check_matching(grads, leaves)
        grads, states = list(grads), []
        for t, s in zip(transforms, state["transforms"], strict=True):
            grads, s = t.update(grads, s, leaves)
            states.append(s)
        return grads, states

    def update(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[list[Tensor], State]:
        grads, states = transformed(grads, state, leaves)
        updates, inner = optimizer.update(grads, state["optimizer"], leaves)
        return updates, {"transforms": states, "optimizer": inner}

    def step(
        grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor], *, donate: bool = False
    ) -> tuple[list[Tensor], State]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not donate):
            grads, states = transformed(grads, state, leaves)
        new, inner = optimizer.step(grads, state["optimizer"], leaves, donate=donate)
        return new, {"transforms": states, "optimizer": inner}

    return Optimizer(init, update, step)


def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """A CPU scalar of the state, whatever the default device: reading it never waits for an accelerator."""
    return torch.tensor(value, dtype=dtype, device="cpu")


def set_scale(state: State, scale: float) -> State:
    """The same optimizer state with every learning rate multiplied by ``scale`` from now on (not cumulatively).

    Raises:
        ConfigError: ``scale`` is negative or not finite, or the state has no ``"scale"`` entry.
    """
    if not (math.isfinite(scale) and scale >= 0.0):
        fail(ConfigError, "set_scale: scale", got=scale, expected="a finite number >= 0")
    found = 0

    def walk(node: State) -> State:
        nonlocal found
        if isinstance(node, dict):
            rates = {k for k, v in node.items() if k == "scale" and isinstance(v, Tensor)}  # no table of that name
            found += len(rates)
            return {k: scalar(scale, torch.float64) if k in rates else walk(v) for k, v in node.items()}
        if isinstance(node, tuple) and hasattr(node, "_make"):  # a NamedTuple
            return node._make(map(walk, node))
        return type(node)(map(walk, node)) if isinstance(node, (list, tuple)) else node

    scaled = walk(state)
    if not found:
        fail(ConfigError, "set_scale", got="a state without any learning rate", fix="pass an optimizer's state")
    return scaled
