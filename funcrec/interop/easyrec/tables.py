"""Which table each feature reads in each group: sharing by name, tables of wide groups, private tables by suffix."""

from __future__ import annotations

from dataclasses import dataclass, field

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.spec import Lookup, Table
from funcrec.interop.easyrec.features import Feature
from funcrec.interop.easyrec.initial_laws import initializer
from funcrec.interop.easyrec.messages import Message

Description = tuple[int, int, str, str]


@dataclass
class Tables:
    """The tables that the groups ask for, in their order. ``lookup`` adds to them."""

    made: dict[str, Table] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    constraints: dict[str, Message] = field(default_factory=dict)
    _described: dict[str, Description] = field(default_factory=dict)
    _suffixes: dict[str, set[str]] = field(default_factory=dict)

    def lookup(
        self, feature: Feature, suffix: str, *, sequence: bool, wide_dim: int | None = None, wide_init: str = ""
    ) -> Lookup:
        """The lookup of a feature in a group, whose ``embedding_name_suffix`` gives it tables of its own.

        Pooled lookups and those of histories are apart even under one name; the latter, one namespace a dim.

        Raises:
            ConfigError: tables of one name that differ, or that different suffixes arrive at.
        """
        wide = wide_dim is not None
        dim = feature.dim if wide_dim is None else wide_dim
        init = wide_init if wide and wide_init else feature.init
        shared = feature.table + ("_wide" if wide else "") + (f"_{suffix}" if suffix else "")
        name = f"seq{dim}:{shared}" if sequence else shared
        pooling = feature.pooling if not sequence else ""
        self._check_suffix(("seq:" if sequence else "") + shared, shared, suffix)
        description = (feature.rows, dim, pooling, init)
        before = self._described.setdefault(name, description)
        if before != description:
            seen = f"feature {feature.name!r} wants (rows, dim, pooling, init_fn) = {description}"
            fix = "features of one embedding_name need equal rows, dim, pooling and init_fn; rename it"
            what = f"table {shared!r}: can not share embedding"
            fail(ConfigError, what, got=seen, expected=f"{before} as before", fix=fix)
        law = initializer(init, f"table {shared!r}")
        self.made.setdefault(name, Table(name=name, rows=feature.rows, dim=dim, init=law))
        if not feature.trainable:
            self.frozen.add(name)
        if feature.constraints is not None:
            self.constraints.setdefault(name, feature.constraints)
        return Lookup(feature=feature.name, table=name, pooling=feature.pooling)

    def _check_suffix(self, key: str, shared: str, suffix: str) -> None:
        suffixes = self._suffixes.setdefault(key, set())
        suffixes.add(suffix)
        if len(suffixes) > 1:
            what = f"embedding table name {shared!r} is produced by groups with different embedding_name_suffix values"
            fix = "it would join tables meant to be apart: rename the embedding_name, or change a suffix"
            fail(ConfigError, what, got=sorted(suffixes), fix=fix)
