"""Tables whose ids are arbitrary numbers: a store that keeps a map from ids to rows beside its tables.

    store = managed(rowwise_store(spec, rule), {"item": ZchConfig(policy="lru")})

``tables["zch"]["item"]`` is the map, tensors only, a part of every checkpoint. Lookups read it; training steps write
into it which ids they saw and, every ``interval`` steps, which ids have rows. A row that gets another id starts afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import CheckpointError, ConfigError, fail
from funcrec.core.ragged import Ids, Nested
from funcrec.core.random import fold_in, only_rows
from funcrec.embedding.rows import Deferred, Gradient
from funcrec.embedding.spec import EmbeddingSpec, Table
from funcrec.embedding.store import Store, Tables
from funcrec.embedding.zch import Map, ZchConfig, evict, init_map, observe, remap

ENTRY = "zch"


class Touched(NamedTuple):
    """The residue of the inner store, and the raw ids that were looked up, by table."""

    inner: Any
    seen: dict[str, Tensor]


@dataclass(frozen=True)
class Seen(Deferred):
    """The ids of a step, on their way to the map with its gradient: those of several micro-batches, one after another.

    They are ``values`` because that is where whoever looks for a gradient's numbers looks; ids are always finite.
    """

    values: Tensor

    def plus(self, others: Sequence[Any]) -> Seen:
        return Seen(torch.cat([self.values, *(o.values for o in others)]))

    def times(self, factor: float | Tensor) -> Seen:
        del factor
        return self

    def squared_norm(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64)


def _features(spec: EmbeddingSpec, configs: Mapping[str, ZchConfig]) -> dict[str, str]:
    """The managed table that each feature reads, of those that read one."""
    known = [t.name for t in spec.tables]
    if unknown := sorted(set(configs) - set(known)):
        fail(ConfigError, "managed: tables", got=unknown, expected=f"names among {known}")
    reads: dict[str, set[str]] = {}
    for group in spec.every_group:
        for lk in group.lookups:
            reads.setdefault(lk.feature, set()).add(lk.table)
    for feature, names in reads.items():
        if len(names) > 1 and names & set(configs):
            fix = "give the feature under another name to the other table, or share one table"
            what = f"managed: feature {feature!r}: an id has another row in each managed table; its tables"
            fail(ConfigError, what, got=sorted(names), expected="one", fix=fix)
    return {feature: name for feature, (name, *_) in reads.items() if name in configs}


def _fresh_rows(table: Table, key: Tensor, n: int) -> Tensor:
    """The first n rows of a table drawn anew; drawn as a whole where its initializer is not drawn by element."""
    with only_rows((table.rows, table.dim), 0, n):
        return table.init(key, (table.rows, table.dim), table.dtype)[:n]


def _check(tables: Tables, table: Table, config: ZchConfig) -> None:
    """Raise unless the map is one of this table: tables may come from a checkpoint of another spec."""
    held = tables.get(ENTRY, {}).get(table.name)
    fix = "start anew, or take the settings of that run"
    if held is None:
        fail(CheckpointError, f"managed: table {table.name!r}", got="tables without a map of its ids", fix=fix)
    for what, found, wanted in (
        ("rows", held["ids"].shape[0] + 1, table.rows),
        ("candidates", held["new_ids"].shape[0], config.room(table.rows)),
    ):
        if found != wanted:
            fail(
                CheckpointError,
                f"managed: table {table.name!r}: {what} of its map",
                got=found,
                expected=wanted,
                fix=fix,
            )


def _remapped(x: Any, held: Map) -> Any:
    """The ids of a feature as rows."""
    if isinstance(x, Tensor):
        return remap(held, x)
    if isinstance(x, Nested):
        return replace(x, bags=_remapped(x.bags, held))
    return replace(x, values=remap(held, x.values))


def managed(
    store: Store, configs: Mapping[str, ZchConfig], *, gather: Callable[[Tensor], Tensor] | None = None
) -> Store:
    """The store with a map from ids to rows before each table in ``configs``; ids are any int64 numbers there.

    A table of ``rows`` rows has ``rows - 1`` slots for ids; all others share its last row. An id seen for the first
    time uses that row too, until the next eviction gives it a slot, whose row is drawn anew by the table's own
    initializer, with the optimizer's statistics of a row before its first step.

    The map counts occurrences in training steps, by ``apply`` alone: micro-batches count as one batch, ``predict`` and
    skipped steps do not count, and neither does the weight of an id. Every process holds all of it, 32 bytes a slot and
    24 a candidate, however the table itself is sharded.

    Args:
        configs: by table name.
        gather: concatenates the ids of all processes (dim 0): ``funcrec.shard.everyones_ids``. All processes call it
            in every step, once a table.

    Raises:
        ConfigError: an unknown table; a feature that reads a managed table and another one; a store of several
            processes without ``gather``, or one that is managed already; in ``init``, a table of one row.
        CheckpointError: in use, tables with no map, or with one of another number of rows or candidates.
    """
    spec = store.spec
    feature_tables = _features(spec, configs)
    managed_tables = {t.name: t for t in spec.tables if t.name in configs}
    if store.processes > 1 and gather is None:
        fix = "gather=everyones_ids(group) of funcrec.shard"
        fail(
            ConfigError, "managed: gather", got=f"None for {store.processes} processes", expected="a function", fix=fix
        )

    def inner(tables: Tables) -> Tables:
        return {name: x for name, x in tables.items() if name != ENTRY}

    def init(key: Tensor) -> Tables:
        tables = store.init(key)
        if ENTRY in tables:
            fail(ConfigError, "managed: a store that is managed already", fix="name all tables in one call")
        maps = {}
        for name, table in managed_tables.items():
            held = init_map(configs[name], table.rows, key.device)
            maps[name] = {**held, "step": torch.zeros((), dtype=torch.int64), "key": fold_in(key, name)}
        return {**tables, ENTRY: maps}

    def lookup(tables: Tables, ids: Ids) -> tuple[TensorDict, Touched]:
        for name, table in managed_tables.items():
            _check(tables, table, configs[name])
        rows, seen = dict(ids), {name: [tables[ENTRY][name]["ids"][:0]] for name in managed_tables}
        for feature, name in feature_tables.items():
            x = ids.get(feature)
            values = x if x is None or isinstance(x, Tensor) else x.values
            if values is not None and values.dtype in (torch.int64, torch.int32):  # else the store says what is wrong
                rows[feature] = _remapped(x, tables[ENTRY][name])
                seen[name].append(values.reshape(-1).long())
        emb, touched = store.lookup(inner(tables), rows)
        return emb, Touched(touched, {name: torch.cat(x) for name, x in seen.items()})

    def gradient(tables: Tables, touched: Touched, d_emb: TensorDict) -> Gradient:
        seen: Any = {f"{ENTRY}.{name}": Seen(ids) for name, ids in touched.seen.items()}
        return {**store.gradient(inner(tables), touched.inner, d_emb), **seen}

    def parted(g: Gradient) -> tuple[Gradient, dict[str, Any]]:
        """What is the inner store's, and the ids by table."""
        names = {f"{ENTRY}.{name}": name for name in managed_tables}
        return {k: x for k, x in g.items() if k not in names}, {name: g[k] for k, name in names.items()}

    def regularize(tables: Tables, g: Gradient) -> Gradient:
        rows, seen = parted(g)
        return {**store.regularize(inner(tables), rows), **{f"{ENTRY}.{name}": x for name, x in seen.items()}}

    def apply(tables: Tables, g: Gradient) -> Tables:
        rows, seen = parted(g)
        out, maps = store.apply(inner(tables), rows), {}
        for name, table in managed_tables.items():
            held, config = tables[ENTRY][name], configs[name]
            ids = seen[name].values
            step = int(held["step"]) + 1
            held = observe(config, held, ids if gather is None else gather(ids), step, donate=True)
            if step % config.interval == 0:
                held, slots = evict(config, held, step)
                if slots.numel():
                    fresh = _fresh_rows(table, fold_in(held["key"], step), slots.shape[0])
                    out = store.reset(out, name, slots, fresh)
            maps[name] = {**held, "step": held["step"] + 1}
        return {**out, ENTRY: maps}

    def reset(tables: Tables, table: str, rows: Tensor, values: Tensor) -> Tables:
        return {**store.reset(inner(tables), table, rows, values), ENTRY: tables[ENTRY]}

    # Not store._replace: what else the inner store begins with ids, it would begin with raw ones, which are no rows.
    verbs: dict[str, Any] = {"init": init, "lookup": lookup, "gradient": gradient, "regularize": regularize}
    return Store(**verbs, apply=apply, spec=spec, processes=store.processes, reset=reset)
