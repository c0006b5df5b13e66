"""Where tables go on machines that need not be there: ``print(plan(spec, "128xH200", batch=2048))``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.spec import EmbeddingSpec, Table
from funcrec.optim.rowwise import RowRule
from funcrec.shard.costs import Setting, local_bytes, rule_state, table_uses
from funcrec.shard.options import Constraint, Option, all_options
from funcrec.shard.packing import NoRoom
from funcrec.shard.placement import Placement, Plan
from funcrec.shard.search import search
from funcrec.shard.topology import Topology, as_topology


def plan(
    tables: EmbeddingSpec | Sequence[Table],
    topology: Topology | str,
    *,
    batch: int,
    rule: RowRule | str | None = None,
    features: Mapping[str, float] | None = None,
    constraints: Mapping[str, Constraint] | None = None,
    default: Constraint | None = None,
    reserve: float = 0.15,
    dense_bytes: float = 0.0,
    dense_time: float = 0.0,
    bins: int = 1000,
) -> Plan:
    """Choose a sharding for every table and ranks for its shards, so that a step is short and everything fits.

    Costs are those of :mod:`funcrec.shard.costs`; the search is that of :mod:`funcrec.shard.search`: good, not proven
    best. The plan does not depend on the order of the tables, nor on anything random.

    Args:
        tables: a spec; or tables alone, each read by one pooled feature of its name.
        topology: the machines, or a text for :func:`~funcrec.shard.topology.parse_topology`.
        batch: rows on each rank in a step.
        rule: of the tables' optimizer, or its name; None: row-wise Adagrad.
        features: average number of ids in a row, by feature; 1 for those not named.
        constraints: by table.
        default: of the tables without one; None: every sharding under which the rule trains as on one process.
        reserve: share of each rank's memory to keep free, for activations and fragments.
        dense_bytes: of each rank, for the dense parameters with gradients and optimizer state, and what else is known.
        dense_time: seconds of a step's device work that is not tables.
        bins: of the dynamic programming over memory.

    Raises:
        ConfigError: what does not fit, with the table and the missing bytes; a constraint on an unknown table or one
            that leaves no sharding; an unknown feature, rule or device; a reserve outside [0, 1).
    """
    given = tables.tables if isinstance(tables, EmbeddingSpec) else tuple(tables)
    names = [t.name for t in given]
    if not names or len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1}) if names else "none"
        fail(ConfigError, "plan: tables", got=twice, expected="at least one, each name once")
    if not 0 <= reserve < 1:
        fail(ConfigError, "plan: reserve", got=reserve, expected="a share of the memory in [0, 1)")
    for name, value in (("dense_bytes", dense_bytes), ("dense_time", dense_time)):
        if not 0 <= value < float("inf"):
            fail(ConfigError, f"plan: {name}", got=value, expected="a number >= 0")
    setting = Setting(topology=as_topology(topology), batch=batch, rule=rule_state(rule))
    uses = table_uses(tables, features or {})
    # Equal plans for equal sets of tables: the search breaks ties by position.
    ordered = sorted(given, key=lambda t: (-t.rows * t.dim * t.dtype.itemsize, t.name))
    options = all_options(ordered, uses, constraints or {}, default or Constraint(), setting)
    fixed = local_bytes(ordered, uses, batch) + dense_bytes
    capacity = setting.topology.memory * (1 - reserve) - fixed
    if capacity <= 0:
        what = "plan: nothing is left for tables; reserve, dense_bytes and the rank's own batch need"
        short = _size(-capacity)
        fail(ConfigError, what, got=f"{short} more than the memory of a rank", fix="a smaller batch or reserve")
    fitting = _fitting(ordered, options, setting.topology, capacity)
    found = search(fitting, setting.topology, capacity, bins)
    if isinstance(found, NoRoom):
        _no_room(found, ordered, fitting, setting.topology, capacity)
    made = {
        t.name: Placement(t, o[c].kind, o[c].columns, places, uses[t.name], o[c])
        for t, o, c, places in zip(ordered, fitting, found.chosen, found.packing.places, strict=True)
    }
    return Plan(setting, tuple(made[n] for n in names), reserve, dense_bytes, dense_time)


def _fitting(
    tables: Sequence[Table], options: Sequence[tuple[Option, ...]], topology: Topology, capacity: float
) -> list[tuple[Option, ...]]:
    """The options whose largest shard has room on an empty rank; fails where a table has none, or all are too many."""
    made: dict[int, tuple[Option, ...]] = {}
    for table, os in zip(tables, options, strict=True):
        if id(os) not in made:
            made[id(os)] = tuple(o for o in os if o.most_bytes <= capacity)
        if not made[id(os)]:
            smallest = min(os, key=lambda o: o.most_bytes)
            fail(
                ConfigError,
                f"table {table.name!r} ({table.rows:,} rows, dim {table.dim}) does not fit on {topology}",
                got=f"{_size(smallest.most_bytes)} a rank as {smallest.kind}, its smallest",
                expected=f"at most {_size(capacity)}: short by {_size(smallest.most_bytes - capacity)} a rank",
                fix=_REMEDY,
            )
    fitting = [made[id(os)] for os in options]
    least = [min(o.total_bytes for o in os) for os in fitting]
    if (short := sum(least) - capacity * topology.ranks) > 0:
        i = max(range(len(least)), key=least.__getitem__)
        fail(
            ConfigError,
            f"{len(tables):,} tables do not fit on {topology}",
            got=f"{_size(sum(least))} at least, of which table {tables[i].name!r} takes {_size(least[i])}",
            expected=f"at most {_size(capacity * topology.ranks)}: short by {_size(short)}",
            fix=_REMEDY,
        )
    return fitting


def _no_room(
    found: NoRoom, tables: Sequence[Table], options: Sequence[tuple[Option, ...]], topology: Topology, capacity: float
) -> NoReturn:
    total = sum(min(o.total_bytes for o in os) for os in options)
    fail(
        ConfigError,
        f"table {tables[found.table].name!r} found no rank of {topology} with room for it",
        got=f"{_size(found.needed)} on a rank with {_size(max(found.free, 0))} left by the other tables, which with it "
        f"take {_size(total)} at least of {_size(capacity * topology.ranks)}",
        expected=f"short by {_size(found.needed - found.free)} a rank",
        fix=_REMEDY,
    )


_REMEDY = "take more ranks, a dtype or a rule of fewer bytes, a smaller reserve or batch, or allow more shardings"


def _size(size: float) -> str:
    return f"{size / 1e9:,.3f} GB ({round(size):,} bytes)"
