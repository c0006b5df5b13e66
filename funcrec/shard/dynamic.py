"""One choice for each table, so that all fit in memory together and take the least time in all: dynamic programming.

With options of ``(bytes, time)`` for each table, minimise ``Σ time`` subject to ``Σ bytes ≤ capacity`` (the
multiple-choice knapsack). Sums of bytes are kept exactly and only *compared* by bins: of the partial choices whose sums
fall into one bin, the fastest survives.

Bytes are counted above the least that each table needs, so what cannot be avoided costs no precision. Let ``w`` be the
width of a bin, ``(capacity - Σ least bytes)/bins``, and ``T`` the number of tables that have a real choice. Then

- what is returned always fits;
- it is optimal if the bytes above the least are multiples of ``w`` (the least bytes may be anything);
- it is optimal if the fastest options of all tables fit together;
- otherwise its time is at most the optimum of the capacity less ``T·w``: by induction over tables, some survivor is as
  fast as any given partial choice and at most one bin a table above it.

Reference: Kellerer, Pferschy & Pisinger, "Knapsack Problems", 2004, chapter 11; torchrec's planner has the idea of
keeping exact sums in bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from funcrec.core.errors import ConfigError, fail

Options = Sequence[tuple[float, float]] | np.ndarray


class Frontier(NamedTuple):
    """The best choices by memory, from least to most: each is faster than all before it.

    ``bytes`` and ``time`` are exact sums; ``pick(i)`` gives the option index of each table.
    """

    bytes: np.ndarray
    time: np.ndarray
    cells: np.ndarray
    least: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...]
    steps: tuple[tuple[int, np.ndarray, np.ndarray], ...]

    def pick(self, i: int) -> tuple[int, ...]:
        picked, cell = list(self.least), int(self.cells[i])
        for table, option, parent in reversed(self.steps):
            picked[table] = self.kept[table][int(option[cell])]
            cell = int(parent[cell])
        return tuple(picked)


def choose(options: Sequence[Options], capacity: float, bins: int = 1000) -> tuple[int, ...] | None:
    """The index of one option for each table, least in total time within the capacity; None where nothing fits.

    Args:
        options: of each table, pairs ``(bytes, time)``, both finite and not negative.
        capacity: limit of the total of bytes.
        bins: more of them are closer to the optimum, see the module; time and memory are proportional.

    Raises:
        ConfigError: a table without options, a pair that is not finite or is negative, no bins.

    >>> choose([[(4, 1.0), (1, 5.0)], [(4, 2.0), (1, 3.0)]], capacity=5, bins=5)
    (0, 1)
    """
    made = frontier(options, capacity, bins)
    return made.pick(-1) if made is not None else None


def frontier(options: Sequence[Options], capacity: float, bins: int = 1000) -> Frontier | None:
    """As :func:`choose`, the best choice of every bin that is faster than all bins of less memory."""
    if bins < 1:
        fail(ConfigError, "choose: bins", got=bins, expected="at least one")
    arrays = [np.asarray(o, dtype=np.float64).reshape(-1, 2) for o in options]
    for i, a in enumerate(arrays):
        if not len(a) or not np.isfinite(a).all() or (a < 0).any():
            expected = "one at least, finite and not negative"
            fail(ConfigError, f"choose: options (bytes, time) of table {i}", got=a.tolist(), expected=expected)
    kept = tuple(_undominated(a) for a in arrays)
    least = tuple(k[0] for k in kept)
    base = sum(float(a[k[0], 0]) for a, k in zip(arrays, kept, strict=True))
    base_time = sum(float(a[k[0], 1]) for a, k in zip(arrays, kept, strict=True))
    room = capacity - base
    if room < 0:
        return None
    # A table's first kept option is its smallest, its last the fastest. Where all of these fit, they are found whatever
    # the bins: each partial choice of them is the fastest of its bin. Then bins need not reach further.
    most = sum(float(a[k[-1], 0] - a[k[0], 0]) for a, k in zip(arrays, kept, strict=True))
    room = min(room, most)
    width = room / bins
    extra, time = np.full(bins + 1, np.inf), np.full(bins + 1, np.inf)
    extra[0], time[0] = 0.0, 0.0
    steps = []
    for table, (a, k) in enumerate(zip(arrays, kept, strict=True)):
        if len(k) == 1 or width == 0:
            continue
        more = a[list(k)] - a[k[0]]
        extra, time, option, parent = _step(extra, time, more, room, width)
        steps.append((table, option, parent))
    better = np.flatnonzero(time < np.minimum.accumulate(np.concatenate([[np.inf], time[:-1]])))
    return Frontier(base + extra[better], base_time + time[better], better, least, kept, tuple(steps))


def _undominated(pairs: np.ndarray) -> tuple[int, ...]:
    """Indices by growing bytes and falling time; of equals the first."""
    picked: list[int] = []
    for i in np.lexsort((pairs[:, 1], pairs[:, 0])):
        if not picked or pairs[i, 1] < pairs[picked[-1], 1]:
            picked.append(int(i))
    return tuple(picked)


def _step(
    extra: np.ndarray, time: np.ndarray, more: np.ndarray, room: float, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One table added to all survivors: the new sums, and by cell the option taken and the cell it came from."""
    new_extra, new_time = np.full_like(extra, np.inf), np.full_like(time, np.inf)
    option, parent = np.zeros(len(extra), dtype=np.int16), np.zeros(len(extra), dtype=np.int32)
    reached = np.flatnonzero(np.isfinite(extra))
    # Neighbouring cells may meet in one cell of the sum, those of one parity never do: they are over a bin apart.
    for sources in (reached[reached % 2 == 0], reached[reached % 2 == 1]):
        for j, (b, t) in enumerate(more):
            total = extra[sources] + b
            inside = total <= room
            total, origin = total[inside], sources[inside]
            # The nudge keeps exact multiples of the width in the bin of their own.
            cells = np.minimum((total / width + 1e-9).astype(np.int64), len(extra) - 1)
            candidate = time[origin] + t
            wins = candidate < new_time[cells]
            at = cells[wins]
            new_extra[at], new_time[at] = total[wins], candidate[wins]
            option[at], parent[at] = j, origin[wins]
    return new_extra, new_time, option, parent
