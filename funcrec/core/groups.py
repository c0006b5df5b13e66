"""Feature groups: what a model sees, by name and width, without any id, table or file.

A model's config lists the groups it reads. A group is an ordered list of fields; a field is either *embedded* (looked
up by a store, found in ``emb[group]``) or *dense* (raw numbers, found in ``batch["dense"][field]``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from funcrec.core.errors import ConfigError, fail


@dataclass(frozen=True)
class Field:
    """One column group of a group vector: its name, its width, and whether it is raw numbers or an embedding."""

    name: str
    dim: int
    dense: bool = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            fail(ConfigError, f"field {self.name!r}: dim", got=self.dim, expected="a positive integer")


@dataclass(frozen=True)
class Group:
    """An ordered, named list of fields.

    ``emb[name]`` is ``[B, N, D]`` when the N embedded fields share one dim D, else their concatenation ``[B, W]``.
    """

    name: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        if not self.fields:
            fail(ConfigError, f"group {self.name!r}", got="no fields", expected="at least one field")
        names = [f.name for f in self.fields]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            fail(ConfigError, f"group {self.name!r}: repeated fields", got=repeated, fix="list each field once")

    @staticmethod
    def of(name: str, embedded: Sequence[str], dim: int, dense: Sequence[str] = ()) -> Group:
        """The common case: embedded fields of one dim, then dense fields of width 1."""
        fields = [Field(n, dim) for n in embedded] + [Field(n, 1, dense=True) for n in dense]
        return Group(name, tuple(fields))

    @property
    def embedded(self) -> tuple[Field, ...]:
        return tuple(f for f in self.fields if not f.dense)

    @property
    def dense(self) -> tuple[Field, ...]:
        return tuple(f for f in self.fields if f.dense)

    @property
    def width(self) -> int:
        """Width of the group vector: all fields, concatenated."""
        return sum(f.dim for f in self.fields)

    @property
    def stacked_dim(self) -> int | None:
        """The common dim D of the embedded fields, or None when they differ or there are none."""
        dims = {f.dim for f in self.embedded}
        return dims.pop() if len(dims) == 1 else None

    @property
    def embedded_shape(self) -> tuple[int, ...]:
        """Shape of ``emb[name]`` without the batch dim."""
        if self.stacked_dim is not None:
            return (len(self.embedded), self.stacked_dim)
        return (sum(f.dim for f in self.embedded),)

    def require_stacked(self, model: str) -> tuple[int, int]:
        """(N, D) of a group whose fields must all be embedded with one dim."""
        if self.dense or self.stacked_dim is None:
            dims = {f.name: f.dim for f in self.embedded}
            fail(
                ConfigError,
                f"{model}: group {self.name!r}",
                got=f"embedded dims {dims}, dense fields {[f.name for f in self.dense]}",
                expected="embedded fields of one dim only",
                fix="give these fields the same dim, and put raw numbers into another group",
            )
        return len(self.embedded), self.stacked_dim
