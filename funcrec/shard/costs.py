"""What a shard of a table costs its rank: bytes of memory, and seconds of every step.

The seconds come from bytes moved, divided by a rate of the :class:`~funcrec.shard.topology.Topology`. With ``N`` rows
in the global batch, of which a table sees ``L`` ids and ``P`` pooled outputs a row, a shard of ``r`` of the table's
``R`` rows and ``c`` columns takes ``i = N·L·r/R`` ids and has ``o = N·P`` output rows (of a sequence, one an id):

- lookup: ids and rows read, output written: ``i·(8 + c·bytes) + o·4c``;
- update: ids sorted, the gradient read for each, each distinct row and its state read and written, where
  ``r·(1 - exp(-i/r))`` rows are distinct if ids are uniform (skewed ids touch fewer, so this is an upper estimate);
- exchange: ids in, output out, gradient in. Whole rows or columns of a table go by all-to-all, ``(local-1)/n`` of them
  inside the host and ``(n-local)/n`` between hosts, one after the other. Partial sums of a row-wise table need a
  reduce-scatter of all ``o`` rows over all ranks; with ``table_row_wise`` and ``grid`` it stays in the host, and what
  is left crosses the network.

A data-parallel table is looked up for the rank's own rows only; each step all-reduces its whole gradient, and its
optimizer reads and writes the whole table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.spec import EmbeddingSpec, Table
from funcrec.optim import rowwise
from funcrec.optim.rowwise import RowRule
from funcrec.shard.topology import Topology

Kind = Literal["data_parallel", "table_wise", "row_wise", "column_wise", "table_row_wise", "grid"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Columns of the arrays below: bytes, then seconds.
WEIGHTS, STATE, BUFFERS, LOOKUP, EXCHANGE, UPDATE = range(6)
BYTES, TIMES = slice(0, 3), slice(3, 6)
_ID, _OUT = 8, 4  # bytes of an id and of an entry of an output or its gradient, which travel in float32
_SORT = 64  # bytes moved to sort one id with its position: four passes of a radix sort


class Use(NamedTuple):
    """A table's traffic for one row of the batch: ids in all, outputs pooled from them, ids in sequences."""

    ids: float
    pooled: float
    steps: float


class RuleState(NamedTuple):
    """What a plan needs of a row rule, a value that can be compared and sent: its numbers of state."""

    name: str
    a_row: int
    an_entry: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What costs depend on besides the table: machines, rows of the batch on each rank, the rule of the tables."""

    topology: Topology
    batch: int
    rule: RuleState

    def __post_init__(self) -> None:
        if self.batch < 1:
            fail(ConfigError, "plan: batch", got=self.batch, expected="at least one row a rank")


def rule_state(rule: RowRule | str | None) -> RuleState:
    """The state of a rule, or of the rule of a name; None: row-wise Adagrad.

    Raises:
        ConfigError: an unknown name, or slots that are not some numbers a row and some an entry.
    """
    if isinstance(rule, str) or rule is None:
        name = rule or "rowwise_adagrad"
        names = [n for n in rowwise.__all__ if n.islower()]
        if name not in names:
            fail(ConfigError, "plan: rule", got=repr(name), expected=f"a RowRule or one of {names}")
        rule = getattr(rowwise, name)(0.01)
    assert isinstance(rule, RowRule)

    def numbers(columns: int) -> int:
        return sum(int(np.prod(slot.shape, dtype=np.int64)) for slot in rule.slots(columns).values())

    an_entry = numbers(2) - numbers(1)
    a_row = numbers(1) - an_entry
    if numbers(100) != a_row + 100 * an_entry:
        fail(ConfigError, f"plan: rule {rule.name!r}: slots", expected="sizes that grow with the dim")
    return RuleState(rule.name, a_row, an_entry)


def table_uses(tables: EmbeddingSpec | Sequence[Table], features: Mapping[str, float]) -> dict[str, Use]:
    """Each table's traffic. ``features``: average ids a row by feature, 1 where not said.

    Tables without a spec count as one pooled feature each, of the table's name. A lookup that several groups share is
    done once.

    Raises:
        ConfigError: a feature that nothing reads, a number of ids that is not positive.
    """
    if isinstance(tables, EmbeddingSpec):
        pooled = list(dict.fromkeys((lk.feature, lk.table, lk.pooling) for g in tables.groups for lk in g.lookups))
        sequences = list(dict.fromkeys((lk.feature, lk.table) for g in tables.sequences for lk in g.lookups))
        reads = [(f, t, True) for f, t, _ in pooled] + [(f, t, False) for f, t in sequences]
        names = [t.name for t in tables.tables]
    else:
        names = [t.name for t in tables]
        reads = [(name, name, True) for name in names]
    known = {feature for feature, _, _ in reads}
    for feature, ids in features.items():
        if feature not in known:
            fail(ConfigError, "plan: features", got=repr(feature), expected=f"one of {sorted(known)}")
        if not 0 < ids < float("inf"):
            fail(ConfigError, f"plan: feature {feature!r}: average ids a row", got=ids, expected="a positive number")
    made = dict.fromkeys(names, Use(0.0, 0.0, 0.0))
    for feature, table, is_pooled in reads:
        ids, old = float(features.get(feature, 1.0)), made[table]
        made[table] = Use(old.ids + ids, old.pooled + is_pooled, old.steps + (0.0 if is_pooled else ids))
    return made


def state_bytes(rule: RuleState, dtype: torch.dtype, columns: int) -> int:
    """Of the optimizer, for one row of ``columns`` entries, exact: slots are at least float32, whatever the table is.

    A number a row (row-wise Adagrad) is kept by every column shard.
    """
    return (rule.a_row + columns * rule.an_entry) * torch.promote_types(dtype, torch.float32).itemsize


def shard_costs(table: Table, use: Use, kind: Kind, rows: np.ndarray, columns: int, setting: Setting) -> np.ndarray:
    """``[k, 6]``: bytes of weights, state and exchange buffers, seconds of lookup, exchange and update of each shard.

    Args:
        rows: ``[k]`` rows of each shard; a row-wise shard may have none and still takes part in the collectives.
        columns: of each shard.
    """
    t, item = setting.topology, table.dtype.itemsize
    rows = np.asarray(rows, dtype=np.float64)
    made = np.zeros((len(rows), 6))
    state = state_bytes(setting.rule, table.dtype, columns)
    made[:, WEIGHTS], made[:, STATE] = rows * columns * item, rows * state
    rate, out = t.copy * t.gather, columns * _OUT
    by_rows = kind in ("row_wise", "table_row_wise", "grid")
    replicated = kind == "data_parallel"
    share = rows / table.rows if by_rows else np.ones_like(rows)
    batch = setting.batch * (1 if replicated else t.ranks)
    ids, steps = batch * use.ids * share, batch * use.steps * share
    pooled = batch * use.pooled
    made[:, LOOKUP] = (ids * (_ID + _whole(columns * item, t)) + (pooled + steps) * out) / rate
    made[:, UPDATE] = ids * (_SORT + out) / rate
    if replicated:
        gradient = table.rows * columns * item
        made[:, BUFFERS] = gradient
        made[:, EXCHANGE] = 2 * gradient * (t.ranks - 1) / t.ranks / t.ring
        made[:, UPDATE] += (2 * gradient + 2 * (made[:, WEIGHTS] + made[:, STATE])) / t.copy
        return made
    distinct = -rows * np.expm1(-ids / np.maximum(rows, 1))
    made[:, UPDATE] += distinct * 2 * (_whole(columns * item, t) + (_whole(state, t) if state else 0)) / rate
    made[:, BUFFERS] = ids * _ID + 2 * (pooled + steps) * out
    # Of an all-to-all: seconds a byte that a rank sends to, or gets from, all ranks in equal parts.
    to_all = ((t.local - 1) / t.intra + (t.ranks - t.local) / t.inter) / t.ranks
    made[:, EXCHANGE] = (ids * _ID + 2 * steps * out) * to_all
    if kind == "row_wise":
        made[:, EXCHANGE] += 2 * pooled * out * (t.ranks - 1) / t.ranks / t.ring
    elif by_rows:
        between = (t.ranks - t.local) / t.ranks / t.inter
        made[:, EXCHANGE] += 2 * pooled * out * ((t.local - 1) / t.intra + between) / t.local
    else:
        made[:, EXCHANGE] += 2 * pooled * out * to_all
    return made


def local_bytes(tables: Sequence[Table], uses: Mapping[str, Use], batch: int) -> float:
    """Of one rank's own batch, wherever the tables are: its ids, the embeddings that come back and their gradient."""
    outputs = sum((uses[t.name].pooled + uses[t.name].steps) * t.dim for t in tables)
    return batch * (sum(uses[t.name].ids for t in tables) * _ID + 2 * outputs * _OUT)


def _whole(size: float, topology: Topology) -> float:
    return float(-(-size // topology.sector) * topology.sector)
