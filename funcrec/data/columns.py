"""What a column of a file becomes: a number, a bucket, an id, a label, a weight or a time.

Every column is a frozen, hashable value that checks itself. ``source`` names the file's column when it differs from
the field's name, so that one file column can feed several fields (an hour of day and a weekday from one timestamp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from funcrec.core.errors import ConfigError, fail

if TYPE_CHECKING:
    from funcrec.data.vocabulary import Vocabularies

Transform = Literal["none", "log1p", "log1p_clip", "log_plus3", "standardize"]
Derivation = Literal["log_square", "yymmddhh_hour", "yymmddhh_weekday", "yymmddhh_weekend"]

# The logarithms exist above these numbers only.
DOMAIN = {"log1p": -1.0, "log_plus3": -3.0}


def _one_of(where: str, value: object, kind: object) -> None:
    if value not in get_args(kind):
        fail(ConfigError, where, got=repr(value), expected=f"one of {list(get_args(kind))}")


def _at_least(where: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        fail(ConfigError, where, got=repr(value), expected=f"an integer of at least {least}")


def _named(column: object, name: object) -> str:
    where = type(column).__name__
    if not isinstance(name, str) or not name:
        fail(ConfigError, f"{where}: name", got=repr(name), expected="a non-empty string")
    return f"{where} {name!r}"


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A dense field, ``[B, width]`` float32.

    ``transform``: ``log1p`` is ln(1 + x); ``log1p_clip`` is ln(1 + max(x, 0)); ``log_plus3`` is ln(x + 3);
    ``standardize`` is (x - mean) / std with the training data's mean and (population) std. A value outside of the
    transform's domain is a bad value. ``missing`` stands in for an empty cell *before* the transform, ``"mean"`` being
    the learnt mean; None makes an empty cell a bad value. Cells of ``width`` > 1 are lists, or text split at
    ``separator``.
    """

    name: str
    source: str | None = None
    transform: Transform = "none"
    missing: float | Literal["mean"] | None = None
    width: int = 1
    separator: str | None = None

    def __post_init__(self) -> None:
        where = _named(self, self.name)
        _one_of(f"{where}: transform", self.transform, Transform)
        _at_least(f"{where}: width", self.width, 1)
        if self.missing == "mean" and self.transform != "standardize":
            fail(ConfigError, f"{where}: missing", got="'mean'", expected="a number", fix="the mean needs standardize")
        if self.missing not in (None, "mean") and not _finite(self.missing):
            fail(ConfigError, f"{where}: missing", got=repr(self.missing), expected="a finite number, 'mean' or None")
        low = DOMAIN.get(self.transform)
        if low is not None and isinstance(self.missing, int | float) and self.missing <= low:
            fail(ConfigError, f"{where}: missing", got=self.missing, expected=f"more than {low:g} for {self.transform}")


@dataclass(frozen=True, kw_only=True)
class Bucketised:
    """An id field from a number: id 0 for an empty cell, else 1 + the number of boundaries <= x.

    Buckets are right-open: with boundaries (b1, b2) they are (-inf, b1), [b1, b2), [b2, inf). Give ``boundaries``, or
    ``quantiles=n`` to learn at most n - 1 of them that cut the training rows into equal parts.
    """

    name: str
    source: str | None = None
    boundaries: tuple[float, ...] | None = None
    quantiles: int | None = None

    def __post_init__(self) -> None:
        where = _named(self, self.name)
        if (self.boundaries is None) == (self.quantiles is None):
            fail(ConfigError, where, got="both or neither", expected="boundaries, or quantiles to learn them")
        if self.quantiles is not None:
            _at_least(f"{where}: quantiles", self.quantiles, 2)
        if self.boundaries is not None:
            object.__setattr__(self, "boundaries", tuple(self.boundaries))
            ordered = all(a < b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))
            if not self.boundaries or not all(map(_finite, self.boundaries)) or not ordered:
                fail(ConfigError, f"{where}: boundaries", got=self.boundaries, expected="increasing finite numbers")

    def rows(self, vocabularies: Vocabularies) -> int:
        """Table rows, the row of missing values included."""
        return len(vocabularies.edges(self)) + 2


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Ids by rank of frequency, from 1; tokens seen fewer than ``min_count`` times share the row 0 with unseen ones.

    An empty cell is a token of its own, under the same ``min_count`` rule: that a value is missing says something.
    """

    min_count: int = 1

    def __post_init__(self) -> None:
        _at_least("Vocabulary: min_count", self.min_count, 1)


@dataclass(frozen=True, kw_only=True)
class Hash:
    """Id 1 + hash(token, salt) mod ``buckets``; an empty cell is row 0. The same number on every platform."""

    buckets: int
    salt: int = 0

    def __post_init__(self) -> None:
        _at_least("Hash: buckets", self.buckets, 1)
        _at_least("Hash: salt", self.salt, 0)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The file's own integers: id = value - ``offset``, in [0, ``rows``).

    ``out_of_range="oov"`` sends other integers, and empty cells, to one more row at the end (so that ids stay the
    file's own); ``"raise"`` makes both of them bad values.
    """

    rows: int
    offset: int = 0
    out_of_range: Literal["raise", "oov"] = "raise"

    def __post_init__(self) -> None:
        _at_least("Range: rows", self.rows, 1)
        _one_of("Range: out_of_range", self.out_of_range, Literal["raise", "oov"])
        if not isinstance(self.offset, int):
            fail(ConfigError, "Range: offset", got=repr(self.offset), expected="an integer")


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """An id field: one id a row, or with ``bag``, ``sequence``, ``separator`` or ``weighted`` a ragged number of them.

    Args:
        encoding: how a token becomes an id. Tokens are text; integers of a typed file are their decimal digits.
        separator: splits text cells into items; typed files have lists already.
        weighted: items are ``key:weight`` text, or a map, or structs of two fields.
        sequence: items are ordered in time, the latest last. With ``bag`` each step is a list of ids, of no order:
            the attributes of each item of a history. Cells are lists, steps lists or text split at ``separator``.
        max_length: keeps the last items, or steps, of a sequence, the first ones of a bag.
        derive: computes the token from the cell (see :mod:`funcrec.data.derive`).
        shares: the categorical field whose vocabulary this one uses, as a history of items shares the items'.
    """

    name: str
    source: str | None = None
    encoding: Vocabulary | Hash | Range = Vocabulary()
    separator: str | None = None
    bag: bool = False
    sequence: bool = False
    weighted: bool = False
    max_length: int | None = None
    derive: Derivation | None = None
    shares: str | None = None

    def __post_init__(self) -> None:
        where = _named(self, self.name)
        if not isinstance(self.encoding, Vocabulary | Hash | Range):
            fail(ConfigError, f"{where}: encoding", got=repr(self.encoding), expected="Vocabulary, Hash or Range")
        if self.separator == "":
            fail(ConfigError, f"{where}: separator", got="''", expected="a non-empty string or None")
        if self.max_length is not None:
            _at_least(f"{where}: max_length", self.max_length, 1)
        if self.derive is not None:
            _one_of(f"{where}: derive", self.derive, Derivation)
        if not self.ragged and self.max_length is not None:
            fail(
                ConfigError, where, got="max_length with one id a row", fix="add bag=True, sequence=True or a separator"
            )
        if self.nested and self.weighted:
            fail(ConfigError, where, got="weighted with bag and sequence", expected="bags of plain ids")
        if self.ragged and self.derive is not None:
            fail(ConfigError, where, got="derive with several ids a row", expected="one value a row")

    @property
    def ragged(self) -> bool:
        return self.bag or self.sequence or self.weighted or self.separator is not None

    @property
    def nested(self) -> bool:
        """Whether each step of the sequence is a bag."""
        return self.bag and self.sequence

    def rows(self, vocabularies: Vocabularies) -> int:
        """Table rows, the row of unknown values included."""
        if isinstance(self.encoding, Vocabulary):
            return len(vocabularies.vocabulary(self)) + 1
        if isinstance(self.encoding, Hash):
            return self.encoding.buckets + 1
        return self.encoding.rows + (self.encoding.out_of_range == "oov")


def _finite(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
