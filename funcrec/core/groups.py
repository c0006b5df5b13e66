"""Feature groups: what a model sees, by name and width, without any id, table or file.

A model's config lists the groups it reads. A group is an ordered list of fields, then what encoders make of histories:

* an *embedded* field is looked up by a store and found in ``emb[group]``;
* a *dense* field is raw numbers, found in ``batch["dense"][field]``, or a learned function of them (``number``);
* an *encoded* field is a :class:`Sequence`, a history with its query, reduced to one vector by an encoder.

``funcrec.layers.inputs`` turns ``emb`` and ``batch`` into the group vector ``[fields…; encoded…]``.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

from tensordict import TensorDict
from torch import Tensor, dtype

from funcrec.core.errors import ConfigError, fail


class NumberEmbedding(Protocol):
    """A frozen config that turns raw numbers ``[B, width]`` into a vector ``[B, dim]``: AutoDis, a linear map."""

    def init(self, key: Tensor, width: int, dim: int, dtype: dtype | None = None) -> TensorDict: ...

    def apply(self, params: TensorDict, x: Tensor) -> Tensor: ...


class Encoder(Protocol):
    """A frozen config that reduces a history ``[B, T, key_dim]`` under a query ``[B, query_dim]`` to ``[B, out]``.

    ``lengths`` ``[B]`` int64: the first ``lengths[b]`` steps of row b are real, the others padding. ``query_dim`` is 0,
    and ``query`` ``[B, 0]``, where the sequence has no query.
    """

    def output_dim(self, query_dim: int, key_dim: int) -> int: ...

    def init(
        self, key: Tensor, query_dim: int, key_dim: int, dtype: dtype | None = None
    ) -> tuple[TensorDict, TensorDict]: ...

    def apply(
        self,
        params: TensorDict,
        query: Tensor,
        keys: Tensor,
        lengths: Tensor,
        state: TensorDict,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, TensorDict]: ...


@dataclass(frozen=True)
class Field:
    """One column group of a group vector: its name, its width, and whether it is raw numbers or an embedding.

    ``number``: for a dense field, how its ``width`` raw numbers become ``dim`` learned ones; None: they are used as
    they are, and ``dim`` is their width.
    """

    name: str
    dim: int
    dense: bool = False
    number: NumberEmbedding | None = None
    width: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            fail(ConfigError, f"field {self.name!r}: dim", got=self.dim, expected="a positive integer")
        if self.number is not None and not self.dense:
            fail(ConfigError, f"field {self.name!r}: a number embedding", got="an embedded field", fix="set dense=True")
        raw = self.dim if self.number is None else 1
        object.__setattr__(self, "width", self.width or raw)
        if self.number is None and self.width != self.dim:
            fail(ConfigError, f"field {self.name!r}: width", got=self.width, expected=f"its dim, {self.dim}")


@dataclass(frozen=True)
class Sequence:
    """A history with its query. Both are lists of fields, concatenated in their listed order.

    ``emb[name]`` is ``[B, T, Σ dims]`` of the embedded ``keys``, zero at padded steps; their raw numbers are
    ``batch["sequence"][field]`` ``[B, T, dim]``; ``batch["length"][name]`` ``[B]`` int64 counts the real steps. The
    ``query`` is the group ``<name>_query``. Attention compares query and keys component by component, so list the
    fields of both in the same order.
    """

    name: str
    query: tuple[Field, ...]
    keys: tuple[Field, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "query", tuple(self.query))
        object.__setattr__(self, "keys", tuple(self.keys))
        if not self.keys:
            fail(ConfigError, f"sequence {self.name!r}", got="no key fields", expected="at least one field a step")
        learned = [f.name for f in self.keys if f.number is not None]
        if learned:
            fail(ConfigError, f"sequence {self.name!r}: number embeddings of keys", got=learned, expected="raw numbers")
        names = [f.name for f in self.keys]
        if len(set(names)) != len(names):
            fail(ConfigError, f"sequence {self.name!r}: repeated key fields", got=names, fix="list each field once")

    @property
    def query_group(self) -> Group | None:
        return Group(f"{self.name}_query", self.query) if self.query else None

    @property
    def query_dim(self) -> int:
        return sum(f.dim for f in self.query)

    @property
    def key_dim(self) -> int:
        return sum(f.dim for f in self.keys)

    @property
    def embedded(self) -> tuple[Field, ...]:
        """The keys that a store looks up."""
        return tuple(f for f in self.keys if not f.dense)


@dataclass(frozen=True)
class Encoded:
    """One more entry of a group vector: an encoder's summary of a history."""

    sequence: Sequence
    encoder: Encoder

    @property
    def dim(self) -> int:
        return self.encoder.output_dim(self.sequence.query_dim, self.sequence.key_dim)


@dataclass(frozen=True)
class Group:
    """An ordered, named list of fields, and the encoders' outputs after them.

    ``emb[name]`` is ``[B, N, D]`` when the N embedded fields share one dim D, else their concatenation ``[B, W]``.
    ``variational``: whether a learned dropout rate a field weighs them (``funcrec.layers.variational_dropout``).
    """

    name: str
    fields: tuple[Field, ...] = ()
    encoded: tuple[Encoded, ...] = ()
    variational: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        object.__setattr__(self, "encoded", tuple(self.encoded))
        if not self.fields and not self.encoded:
            fail(ConfigError, f"group {self.name!r}", got="no fields", expected="at least one field")
        names = [f.name for f in self.fields]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            fail(ConfigError, f"group {self.name!r}: repeated fields", got=repeated, fix="list each field once")

    @staticmethod
    def of(name: str, embedded: SequenceOf[str], dim: int, dense: SequenceOf[str] = ()) -> Group:
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
    def sequences(self) -> tuple[Sequence, ...]:
        """The histories that the encoders read, each once."""
        return tuple(dict.fromkeys(e.sequence for e in self.encoded))

    @property
    def dims(self) -> dict[str, int]:
        """The widths that make up the group vector, by field; encoders are called ``<group>_seq_encoder_<i>``."""
        encoded = {f"{self.name}_seq_encoder_{i}": e.dim for i, e in enumerate(self.encoded)}
        return {f.name: f.dim for f in self.fields} | encoded

    @property
    def width(self) -> int:
        """Width of the group vector: all fields and encodings, concatenated."""
        return sum(self.dims.values())

    @property
    def embedded_shape(self) -> tuple[int, ...]:
        """Shape of ``emb[name]`` without the batch dim; (0,) where the group has no embedded field."""
        dims = [f.dim for f in self.embedded]
        return (len(dims), dims[0]) if len(set(dims)) == 1 else (sum(dims),)

    def require_plain(self, model: str) -> None:
        """Raise unless the group is lookups and raw numbers only, for models that have no parameters for more."""
        odd = [f.name for f in self.fields if f.number is not None] + list(self.dims)[len(self.fields) :]
        if odd or self.variational:
            seen = f"learned numbers and encoders {odd}, variational={self.variational}"
            fail(
                ConfigError, f"{model}: group {self.name!r}", got=seen, expected="embedded fields and raw numbers only"
            )

    def require_stacked(self, model: str) -> tuple[int, int]:
        """(N, D) of a group whose entries must all be vectors of one dim: embeddings, learned numbers, encodings."""
        raw = [f.name for f in self.dense if f.number is None]
        if raw or len(set(self.dims.values())) != 1:
            fail(
                ConfigError,
                f"{model}: group {self.name!r}",
                got=f"dims {self.dims}, raw numbers {raw}",
                expected="embedded fields of one dim only",
                fix="give these fields the same dim, and put raw numbers into another group",
            )
        return len(self.dims), next(iter(self.dims.values()))
