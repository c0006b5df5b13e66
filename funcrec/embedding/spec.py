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
from funcrec.core.groups import Group
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
class Stack:
    """Tables of one dim in one tensor ``[Σ rows, dim]``, and the distinct lookups that read it."""

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

    def __post_init__(self) -> None:
        names = [t.name for t in self.tables]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            fail(ConfigError, "embedding tables: repeated names", got=repeated, fix="name each table once")
        for group in self.groups:
            for lookup in group.lookups:
                if lookup.table not in names:
                    what = f"group {group.name!r}, feature {lookup.feature!r}: table"
                    fail(ConfigError, what, got=repr(lookup.table), expected=f"one of {sorted(names)}")
                if lookup.pooling not in ("sum", "mean"):
                    what = f"group {group.name!r}, feature {lookup.feature!r}: pooling"
                    fail(ConfigError, what, got=repr(lookup.pooling), expected="'sum' or 'mean'")
        # Fill the caches now: torch.compile cannot trace the lock that fills them.
        _ = self.stack_of, [s.offsets for s in self.stacks]

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
        return tuple(dict.fromkeys(lk.feature for g in self.groups for lk in g.lookups))

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
    dtype: torch.dtype = torch.float32,
) -> EmbeddingSpec:
    """The usual spec of a model: a table per embedded field, shared by all groups except the ``private`` ones.

    A private group has tables of its own, ``<field>_<group>``: the wide part of DeepFM, say, whose vectors are another
    parameter than the deep part's. ``rows`` gives the number of ids of each embedded field.
    """
    names = [group.name for group in groups]
    unknown = sorted(set(private) - set(names))
    if unknown:
        fail(ConfigError, "private groups", got=unknown, expected=f"names among {names}")
    tables: dict[str, Table] = {}
    embedding_groups = []
    for group in groups:
        lookups = []
        for f in group.embedded:
            if f.name not in rows:
                expected = f"one of {sorted(rows)}"
                fail(ConfigError, f"group {group.name!r}: number of rows of field", got=repr(f.name), expected=expected)
            name = f"{f.name}_{group.name}" if group.name in private else f.name
            table = Table(name=name, rows=rows[f.name], dim=f.dim, dtype=dtype, init=init or RowCountUniform())
            if tables.setdefault(name, table) != table:
                fail(
                    ConfigError,
                    f"group {group.name!r}: table {name!r} can not share embedding",
                    got=f"dim {table.dim}",
                    expected=f"dim {tables[name].dim} as in another group",
                    fix=f"give the group tables of its own: private=({group.name!r},)",
                )
            lookups.append(Lookup(feature=f.name, table=name, pooling=pooling))
        if lookups:
            embedding_groups.append(EmbeddingGroup(name=group.name, lookups=tuple(lookups)))
    return EmbeddingSpec(tables=tuple(tables.values()), groups=tuple(embedding_groups))
