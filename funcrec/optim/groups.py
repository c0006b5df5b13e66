"""Different optimizers for different leaves, chosen by path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.optim.base import Optimizer, State, check_matching

T = TypeVar("T")


def groups(parts: Sequence[tuple[str, Optimizer]], default: Optimizer) -> Optimizer:
    """Each leaf to the optimizer of the first pattern that matches its whole dotted path, the rest to ``default``.

    >>> from funcrec.optim import adam, groups, sgd
    >>> optimizer = groups([(r".*\\.bias", sgd(1e-2))], default=adam(1e-3))

    Transforms inside a part see that part's leaves only: a clip by global norm there is a norm of the part.

    Args:
        parts: ``(regular expression, optimizer)`` in order of precedence.
        default: for the leaves that no pattern matches.

    Raises:
        ConfigError: a pattern is no regular expression; at ``init``, a pattern gets no leaf.
    """
    for pattern, _ in parts:
        try:
            re.compile(pattern)
        except re.error as e:
            fail(ConfigError, f"groups: pattern {pattern!r}", got=str(e), expected="a regular expression")
    patterns = [pattern for pattern, _ in parts]
    optimizers = [*(o for _, o in parts), default]

    def init(leaves: Sequence[Tensor], paths: Sequence[str]) -> State:
        first = [next((i for i, p in enumerate(patterns) if re.fullmatch(p, path)), len(patterns)) for path in paths]
        for i, pattern in enumerate(patterns):
            if i not in first:
                fail(
                    ConfigError,
                    f"groups: pattern {pattern!r}",
                    got="no leaf that an earlier pattern has not taken",
                    expected=f"a match of one of the whole paths {list(paths)}",
                )
        states = [
            o.init(own, names)
            for o, own, names in zip(optimizers, _split(first, leaves), _split(first, paths), strict=True)
        ]
        return {"group": torch.tensor(first, dtype=torch.int64, device="cpu"), "parts": states}

    def _split(group: Sequence[int], items: Sequence[T]) -> list[list[T]]:
        """The items of each optimizer, in leaf order."""
        return [[x for x, g in zip(items, group, strict=True) if g == i] for i in range(len(optimizers))]

    def run(
        grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor], donate: bool | None
    ) -> tuple[list[Tensor], State]:
        """``update`` of every part if ``donate`` is None, else ``step``."""
        check_matching(grads, leaves)
        group = state["group"].tolist()
        results, states = [], []
        for o, g, s, w in zip(optimizers, _split(group, grads), state["parts"], _split(group, leaves), strict=True):
            result, s = o.update(g, s, w) if donate is None else o.step(g, s, w, donate=donate)
            results.append(iter(result))
            states.append(s)
        return [next(results[i]) for i in group], {"group": state["group"], "parts": states}

    def update(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[list[Tensor], State]:
        return run(grads, state, leaves, None)

    def step(
        grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor], *, donate: bool = False
    ) -> tuple[list[Tensor], State]:
        return run(grads, state, leaves, donate)

    return Optimizer(init, update, step)
