"""The ways in which one table may be sharded, with what each would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.spec import Table
from funcrec.shard.costs import BYTES, KINDS, TIMES, Kind, Setting, Use, shard_costs

Span = Literal["all", "host", "rank"]
SPANS: dict[Kind, Span] = {
    "data_parallel": "all",
    "row_wise": "all",
    "table_row_wise": "host",
    "grid": "host",
    "table_wise": "rank",
    "column_wise": "rank",
}
# Rules that take each entry of a row alone. For the others a column shard is a row of its own, with a mean or a norm of
# its own: another optimizer.
_ENTRYWISE = ("sgd", "adagrad", "adam")
# The kernels move rows in vectors of four entries, and a shard narrower than this wastes most of each access.
_MULTIPLE, _NARROWEST = 4, 32


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What one table's sharding is limited to.

    Args:
        sharding: the kinds allowed; empty: all that leave the optimizer what it is. Rules that take a mean or a norm
            of each row (row-wise Adagrad, partial row-wise Adam, LAMB, LARS) take it of each column shard, so
            ``column_wise`` and ``grid`` are for those who name them.
        columns: the width of a column shard, for ``column_wise`` and ``grid``; None: any that divides the dim into
            halves, quarters, …, of 32 at least.

    Raises:
        ConfigError: an unknown kind, a width that is not positive.
    """

    sharding: tuple[Kind, ...] = ()
    columns: int | None = None

    def __post_init__(self) -> None:
        for kind in self.sharding:
            if kind not in KINDS:
                fail(ConfigError, "constraint: sharding", got=repr(kind), expected=f"kinds among {KINDS}")
        if self.columns is not None and self.columns < 1:
            fail(ConfigError, "constraint: columns", got=self.columns, expected="a positive width")


@dataclass(frozen=True, eq=False)
class Option:
    """One way: ``blocks`` column shards of ``columns`` each, every one of them cut into the same row shards.

    ``counts[j]`` neighbouring ranks have row shards of ``rows[j]``, which cost ``costs[j]`` each. The span says which
    ranks: all of them, those of one host a block, or one rank a block.
    """

    kind: Kind
    columns: int
    blocks: int
    counts: np.ndarray
    rows: np.ndarray
    costs: np.ndarray

    @property
    def span(self) -> Span:
        return SPANS[self.kind]

    @cached_property
    def bytes_each(self) -> np.ndarray:
        """Of the shards of each count."""
        return self.costs[:, BYTES].sum(1)

    @cached_property
    def time_each(self) -> np.ndarray:
        return self.costs[:, TIMES].sum(1)

    @cached_property
    def bytes_by_rank(self) -> np.ndarray:
        """Of one block, from its first rank on."""
        return np.repeat(self.bytes_each, self.counts)

    @cached_property
    def runs(self) -> list[tuple[int, np.ndarray, float, float]]:
        """``(count, costs, bytes, time)`` of neighbouring ranks."""
        each = self.bytes_each.tolist(), self.time_each.tolist()
        return list(zip(self.counts.tolist(), self.costs, *each, strict=True))

    @cached_property
    def total_bytes(self) -> float:
        return self.blocks * float(self.counts @ self.bytes_each)

    @cached_property
    def total_time(self) -> float:
        return self.blocks * float(self.counts @ self.time_each)

    @cached_property
    def most_bytes(self) -> float:
        """Of the largest shard."""
        return float(self.bytes_each.max())

    @cached_property
    def most_time(self) -> float:
        return float(self.time_each.max())


def row_shards(rows: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """How many neighbouring ranks have how many rows: ``⌈rows/ranks⌉`` each, then a rest, then none.

    >>> row_shards(5, 4)
    (array([2, 1, 1]), array([2, 1, 0]))
    """
    block = -(-rows // ranks)
    full, rest = divmod(rows, block)
    runs = [(full, block), (1, rest)] if rest else [(full, block)]
    if (empty := ranks - sum(count for count, _ in runs)) > 0:
        runs.append((empty, 0))
    return np.array([c for c, _ in runs]), np.array([r for _, r in runs])


def make_option(table: Table, use: Use, kind: Kind, columns: int, setting: Setting) -> Option:
    """The option of this kind with column shards of this width."""
    t = setting.topology
    if kind == "data_parallel":
        counts, rows = np.array([t.ranks]), np.array([table.rows])
    elif SPANS[kind] == "rank":
        counts, rows = np.array([1]), np.array([table.rows])
    else:
        counts, rows = row_shards(table.rows, t.ranks if kind == "row_wise" else t.local)
    costs = shard_costs(table, use, kind, rows, columns, setting)
    return Option(kind, columns, table.dim // columns, counts, rows, costs)


def table_options(table: Table, use: Use, constraint: Constraint, setting: Setting) -> tuple[Option, ...]:
    """All options of a table under its constraint, whether they fit or not.

    ``table_row_wise`` and ``grid`` need hosts of one size and pooled lookups only; ``grid`` and ``column_wise`` as many
    hosts or ranks as they have column shards. FBGEMM has columns in fours, and on a CPU no shard without rows: else a
    table can only be data-parallel.

    Raises:
        ConfigError: no option is left; names the table, and what the constraint would need.
    """
    t = setting.topology
    kinds = constraint.sharding or default_kinds(setting)
    made = []
    for kind in KINDS:
        if kind not in kinds or (SPANS[kind] == "host" and (use.steps or not t.even)):
            continue
        if kind != "data_parallel" and table.dim % _MULTIPLE:
            continue
        if kind in ("column_wise", "grid"):
            places = t.ranks if kind == "column_wise" else t.hosts
            widths = [w for w in _widths(table.dim, constraint.columns) if table.dim // w <= places]
        else:
            widths = [table.dim]
        options = [make_option(table, use, kind, w, setting) for w in widths]
        made += [o for o in options if t.cuda or o.rows.all()]
    if not made:
        fail(
            ConfigError,
            f"table {table.name!r} (dim {table.dim}): no sharding is possible",
            got=f"{', '.join(kinds)}"
            + (f" with columns {constraint.columns}" if constraint.columns else "")
            + f" on {t}",
            expected="a dim that is a multiple of 4, on a CPU rows for every rank; column shards of a multiple of 4 "
            "that divide the dim, at most half of it wide, each on a rank (or host) of its own; for shardings by host, "
            "hosts of one size and no sequences",
            fix="allow another kind: data_parallel is always possible",
        )
    return tuple(made)


def default_kinds(setting: Setting) -> tuple[Kind, ...]:
    """Those that train as one process would: without column shards where the rule looks at whole rows."""
    return tuple(k for k in KINDS if k not in ("column_wise", "grid") or setting.rule.name in _ENTRYWISE)


def _widths(dim: int, only: int | None) -> list[int]:
    if only is not None:
        return [only] if dim % only == 0 and only < dim and only % _MULTIPLE == 0 else []
    halves = [dim // 2**k for k in range(1, dim.bit_length()) if dim % 2**k == 0]
    return [w for w in halves if w % _MULTIPLE == 0 and w >= _NARROWEST]


def all_options(
    tables: Sequence[Table],
    uses: Mapping[str, Use],
    constraints: Mapping[str, Constraint],
    default: Constraint,
    setting: Setting,
) -> list[tuple[Option, ...]]:
    """The options of each table; tables alike in everything but their name share them.

    Args:
        default: for tables without a constraint of their own.

    Raises:
        ConfigError: a constraint on a table that does not exist, or one that leaves nothing.
    """
    names = {t.name for t in tables}
    for name in constraints:
        if name not in names:
            fail(ConfigError, f"constraint on table {name!r}", expected=f"a name among {_some(sorted(names))}")
    seen: dict[tuple, tuple[Option, ...]] = {}
    made = []
    for table in tables:
        use, constraint = uses[table.name], constraints.get(table.name, default)
        alike = (table.rows, table.dim, table.dtype, use, constraint)
        if alike not in seen:
            seen[alike] = table_options(table, use, constraint, setting)
        made.append(seen[alike])
    return made


def _some(names: list[str], most: int = 20) -> str:
    return str(names) if len(names) <= most else f"{names[:most]} and {len(names) - most} more"
