"""Which tables exist, and which lookups make up each group that a model reads.

Tables of one dim and dtype are stacked into one tensor, so that a batch needs one gather and one update per dim instead
of one per table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Field, Group
from funcrec.core.init import Initializer, RowCountUniform

Pooling = Literal["sum", "mean"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One embedding table ``[rows, dim]``; features that name the same table share it."""

    name: str
    rows: int
    dim: int
    init: Initializer = field(default_factory=RowCountUniform)
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.rows < 1 or self.dim < 1:
            seen = f"rows {self.rows}, dim {self.dim}"
            fail(ConfigError, f"table {self.name!r}", got=seen, expected="positive rows and dim")


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """One embedded field: the ids of ``feature``, looked up in ``table`` and pooled over each row's ids.

    ``sum``: ``Σ_i w_i e_i``; ``mean``: ``Σ_i w_i e_i / Σ_i w_i`` (w = 1 for unweighted ids). An empty row gives 0.
    """

    feature: str
    table: str
    pooling: Pooling = "sum"


@dataclass(frozen=True, kw_only=True)
class EmbeddingGroup:
    """The ordered lookups behind ``emb[name]``."""

    name: str
    lookups: tuple[Lookup, ...]


@dataclass(frozen=True, kw_only=True)
class SequenceGroup:
    """The ordered lookups behind ``emb[name]`` ``[B, T, Σ dims]``: one id a step, zero at padded steps.

    T is ``pad_to``, or the longest history of the batch where that is None. A fixed T spares ``torch.compile`` a
    compilation a length.
    """

    name: str
    lookups: tuple[Lookup, ...]
    pad_to: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Tables of one dim in one tensor ``[Σ rows, dim]``, and the distinct pooled lookups that read it."""

    name: str
    dim: int
    dtype: torch.dtype
    tables: tuple[Table, ...]
    lookups: tuple[Lookup, ...]

    @cached_property
    def offsets(self) -> dict[str, int]:
        """First row of each table in the stacked tensor."""
        ends, total = {}, 0
        for t in self.tables:
            ends[t.name] = total
            total += t.rows
        return ends

    @cached_property
    def columns(self) -> dict[Lookup, int]:
        """The place of each lookup."""
        return {lk: i for i, lk in enumerate(self.lookups)}

    @property
    def rows(self) -> int:
        return sum(t.rows for t in self.tables)

    @property
    def index_dtype(self) -> torch.dtype:
        """Of row numbers: int32 where they fit, which sorts and gathers faster."""
        return torch.int32 if self.rows < 2**31 else torch.int64


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """All tables and groups of a model; hashable. Stores are made from it."""

    tables: tuple[Table, ...]
    groups: tuple[EmbeddingGroup, ...]
    sequences: tuple[SequenceGroup, ...] = ()

    def __post_init__(self) -> None:
        groups = [g.name for g in self.every_group]
        twice = sorted({n for n in groups if groups.count(n) > 1})
        if twice:
            fail(ConfigError, "embedding groups and sequences: repeated names", got=twice, fix="name each one once")
        names = [t.name for t in self.tables]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            fail(ConfigError, "embedding tables: repeated names", got=repeated, fix="name each table once")
        for group in self.every_group:
            for lookup in group.lookups:
                if lookup.table not in names:
                    what = f"group {group.name!r}, feature {lookup.feature!r}: table"
                    fail(ConfigError, what, got=repr(lookup.table), expected=f"one of {sorted(names)}")
                if lookup.pooling not in ("sum", "mean"):
                    what = f"group {group.name!r}, feature {lookup.feature!r}: pooling"
                    fail(ConfigError, what, got=repr(lookup.pooling), expected="'sum' or 'mean'")
        # Fill the caches now: torch.compile cannot trace the lock that fills them.
        _ = self.stack_of, [(s.offsets, s.columns) for s in self.stacks]

    @property
    def every_group(self) -> tuple[EmbeddingGroup | SequenceGroup, ...]:
        """All entries of ``emb``."""
        return (*self.groups, *self.sequences)

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        kinds = sorted({(t.dim, str(t.dtype)) for t in self.tables})
        stacks = []
        for dim, dtype_name in kinds:
            tables = tuple(t for t in self.tables if (t.dim, str(t.dtype)) == (dim, dtype_name))
            members = {t.name for t in tables}
            # dict.fromkeys: each distinct lookup once, in the order of first use, so a group is often a plain slice
            lookups = dict.fromkeys(lk for g in self.groups for lk in g.lookups if lk.table in members)
            suffix = "" if tables[0].dtype == torch.float32 else "_" + dtype_name.removeprefix("torch.")
            name = f"dim{dim}{suffix}"
            stacks.append(Stack(name=name, dim=dim, dtype=tables[0].dtype, tables=tables, lookups=tuple(lookups)))
        return tuple(stacks)

    @cached_property
    def stack_of(self) -> dict[str, Stack]:
        """The stack that holds each table, by table name."""
        return {t.name: s for s in self.stacks for t in s.tables}

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all id features, each once."""
        return tuple(dict.fromkeys(lk.feature for g in self.every_group for lk in g.lookups))

    @property
    def parameters(self) -> int:
        return sum(t.rows * t.dim for t in self.tables)

    def table(self, weights: TensorDict, name: str) -> Tensor:
        """A view ``[rows, dim]`` of one table inside the stacked weights."""
        if name not in self.stack_of:
            fail(ConfigError, "embedding table", got=repr(name), expected=f"one of {sorted(self.stack_of)}")
        stack = self.stack_of[name]
        start = stack.offsets[name]
        rows = next(t.rows for t in stack.tables if t.name == name)
        return weights[stack.name][start : start + rows]


def spec_for(
    groups: Sequence[Group],
    rows: Mapping[str, int],
    *,
    init: Initializer | None = None,
    pooling: Pooling = "sum",
    private: Collection[str] = (),
    tables: Mapping[str, str] | None = None,
    pad_to: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> EmbeddingSpec:
    """The usual spec of a model: a table per embedded field, shared by all groups except the ``private`` ones.

    The keys of the groups' histories become sequence lookups, their queries groups of their own.

    Args:
        rows: number of ids of each embedded field.
        pooling: of fields with several ids a row.
        private: groups with tables of their own, ``<field>_<group>``: the wide part of DeepFM, say, whose vectors are
            another parameter than the deep part's.
        tables: by field, the name of its table, where that is not the field's own: ``{"hist_item": "item"}`` lets a
            history share the table of the item it is compared with.
        pad_to: number of steps of every history; None: the longest of each batch.

    Raises:
        ConfigError: a field without ``rows``, one table with two shapes, an unknown private group or renamed field.
    """
    names = [group.name for group in groups]
    unknown = sorted(set(private) - set(names))
    if unknown:
        fail(ConfigError, "private groups", got=unknown, expected=f"names among {names}")
    renamed = dict(tables or {})
    made: dict[str, Table] = {}

    def lookup(group: str, field: Field) -> Lookup:
        if field.name not in rows:
            expected = f"one of {sorted(rows)}"
            fail(ConfigError, f"group {group!r}: number of rows of field", got=repr(field.name), expected=expected)
        name = renamed.get(field.name, field.name) + (f"_{group}" if group in private else "")
        table = Table(name=name, rows=rows[field.name], dim=field.dim, dtype=dtype, init=init or RowCountUniform())
        if made.setdefault(name, table) != table:
            fail(
                ConfigError,
                f"group {group!r}: table {name!r} can not share embedding",
                got=f"{table.rows} rows, dim {table.dim}",
                expected=f"{made[name].rows} rows, dim {made[name].dim} as in another group",
                fix=f"give the group tables of its own: private=({group!r},)",
            )
        return Lookup(feature=field.name, table=name, pooling=pooling)

    histories = list(dict.fromkeys(s for group in groups for s in group.sequences))
    queries = [s.query_group for s in histories if s.query_group is not None]
    fields = {f.name for g in (*groups, *queries) for f in g.embedded} | {f.name for s in histories for f in s.embedded}
    if set(renamed) - fields:
        fail(ConfigError, "tables: fields", got=sorted(set(renamed) - fields), expected=f"among {sorted(fields)}")
    pooled = [
        EmbeddingGroup(name=g.name, lookups=tuple(lookup(g.name, f) for f in g.embedded))
        for g in (*groups, *queries)
        if g.embedded
    ]
    sequences = [
        SequenceGroup(name=s.name, lookups=tuple(lookup(s.name, f) for f in s.embedded), pad_to=pad_to)
        for s in histories
        if s.embedded
    ]
    return EmbeddingSpec(tables=tuple(made.values()), groups=tuple(pooled), sequences=tuple(sequences))
