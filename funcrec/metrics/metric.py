"""The metric contract: a named tuple of four pure functions over a state that is a value.

    state = metric.init()
    state = metric.update(state, predictions, labels, weights, groups)     # once a batch
    state = metric.merge(state_of_rank_0, state_of_rank_1)                 # associative
    value = metric.compute(state)                                          # a float64 scalar

There are two kinds of state: float64 sums (:func:`additive`), and the rows themselves (:func:`collected`) for a metric
that compares rows with each other. A state is a plain dict, lives on the device of the predictions, and no update
writes into the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.metrics.rows import Columns, append, concatenate

State = dict[str, Any]
UndefinedPolicy = Literal["raise", "nan"]


class UpdateFn(Protocol):
    """``(state, predictions, labels, weights, groups) -> state``; a metric without groups ignores them."""

    def __call__(
        self,
        state: State,
        predictions: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> State: ...


class Metric(NamedTuple):
    """The four functions of a metric."""

    init: Callable[[], State]
    update: UpdateFn
    merge: Callable[[State, State], State]
    compute: Callable[[State], Tensor]


class Undefined(NamedTuple):
    """What a formula returns where it has no value: what was seen, and what it would need."""

    got: str
    expected: str


def settle(name: str, policy: UndefinedPolicy, value: Callable[[Any], Tensor | Undefined]) -> Callable[[Any], Tensor]:
    """``value``, with its Undefined raised as a DataError or returned as NaN."""
    if policy not in ("raise", "nan"):
        fail(ConfigError, f"{name}: undefined", got=repr(policy), expected="'raise' or 'nan'")

    def compute(state: Any) -> Tensor:
        result = value(state)
        if isinstance(result, Tensor):
            return result
        if policy == "nan":
            return torch.tensor(torch.nan, dtype=torch.float64)
        fix = "compute it over more rows, or make the metric with undefined='nan'"
        fail(DataError, f"{name} is undefined", got=result.got, expected=result.expected, fix=fix)

    return compute


def add_states(a: State, b: State) -> State:
    """Sum of two states, key by key, on the device of ``b``."""
    return {key: a[key].to(x.device) + x for key, x in b.items()}


def additive(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    contribution: Callable[[Tensor, Tensor, Tensor | None], Mapping[str, Tensor]],
    value: Callable[[State], Tensor | Undefined],
    undefined: UndefinedPolicy,
) -> Metric:
    """A metric of sums over rows: a batch contributes float64 tensors of fixed ``shapes``, and states add up.

    The state also counts its ``"rows"``, for the messages.
    """

    def init() -> State:
        return {key: torch.zeros(shape, dtype=torch.float64) for key, shape in {"rows": (), **shapes}.items()}

    def update(
        state: State, predictions: Tensor, labels: Tensor, weights: Tensor | None = None, groups: Tensor | None = None
    ) -> State:
        del groups
        sums = contribution(predictions.detach(), labels, weights)
        rows = torch.tensor(len(labels), dtype=torch.float64, device=predictions.device)
        return add_states(state, {"rows": rows, **sums})

    return Metric(init, update, add_states, settle(name, undefined, value))


def collected(
    name: str,
    columns: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Columns],
    value: Callable[[Columns], Tensor | Undefined],
    undefined: UndefinedPolicy,
) -> Metric:
    """A metric of the rows themselves: ``columns`` checks those of a batch, ``value`` sees all of them at once."""

    def init() -> State:
        return {"chunks": ()}

    def update(
        state: State, predictions: Tensor, labels: Tensor, weights: Tensor | None = None, groups: Tensor | None = None
    ) -> State:
        batch = columns(predictions.detach(), labels, weights, groups)
        # A copy: the caller may reuse the memory of its batch before compute reads it.
        chunk = {key: x.clone() for key, x in batch.items()}
        return {"chunks": append(name, state["chunks"], chunk)}

    def merge(a: State, b: State) -> State:
        chunks = a["chunks"]
        for chunk in b["chunks"]:
            chunks = append(name, chunks, chunk)
        return {"chunks": chunks}

    def value_of_state(state: State) -> Tensor | Undefined:
        if not state["chunks"]:
            return Undefined("0 rows", "at least one row")
        return value(concatenate(state["chunks"]))

    return Metric(init, update, merge, settle(name, undefined, value_of_state))
