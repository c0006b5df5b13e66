"""The contract of a row rule: what an embedding store calls with the rows that one batch touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from funcrec.optim.schedules import Schedule

Slots = dict[str, Tensor]


class Slot(NamedTuple):
    """State of one row: ``()`` for a number a row, ``(dim,)`` for one an entry; ``fill`` before the first step."""

    shape: tuple[int, ...]
    fill: float = 0.0


UpdateRows = Callable[[Tensor, Tensor, Slots, int, float], tuple[Tensor, Slots]]


class RowRule(NamedTuple):
    """An optimizer of table rows, as pure functions.

    ``slots(dim)``: the state that each row needs, by name.

    ``update(w, g, slots, step, lr) -> (w, slots)``: one step of U distinct rows. ``w`` and ``g`` are ``[U, D]``, ``g``
    summed over all occurrences of the row in the batch; slots are ``[U, *shape]``; ``step`` counts the updates of the
    whole table from 1. Rows outside the batch are not touched: they neither decay nor age.

    ``learning_rate``: a number or a schedule of ``step - 1``, for the store to evaluate into ``lr``.

    ``constants``: the numbers of the formula by name, for kernels that know the rule by its ``name`` and take the same
    step without calling ``update``. None: there is only ``update``. Whoever replaces ``update`` sets it to None.

    ``max_gradient``: if given, the store clamps the gradient of the *pooled output* to ``±max_gradient``, entry by
    entry, before it is summed into rows.
    """

    name: str
    slots: Callable[[int], dict[str, Slot]]
    update: UpdateRows
    learning_rate: float | Schedule
    max_gradient: float | None = None
    constants: Mapping[str, float | str] | None = None
