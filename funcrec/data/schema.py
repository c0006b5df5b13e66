"""The schema: which columns a file has and what each becomes, as one hashable value with a JSON form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.data.columns import Bucketised, Categorical, Hash, Numeric, Range, Vocabulary
from funcrec.data.plain import from_plain, nearest, to_plain
from funcrec.data.targets import Label, Time, Weight

if TYPE_CHECKING:
    from funcrec.data.vocabulary import Vocabularies

Column = Numeric | Bucketised | Categorical


class Fields(NamedTuple):
    """What a batch offers: what table specs and groups are made from.

    ``rows``: by id field its table rows. ``dense``: by dense field its width. ``ragged``: the id fields with a varying
    number of ids. ``sequences``: those of them that are ordered, whose steps ``features["length"]`` counts.
    ``shares``: by id field the field whose ids it uses. ``longest``: by ordered field the most steps a row can have,
    where the schema cuts them.
    """

    rows: dict[str, int]
    dense: dict[str, int]
    ragged: tuple[str, ...]
    sequences: tuple[str, ...]
    shares: dict[str, str]
    longest: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns to read, columns to ignore, and which texts mean that a cell is empty.

    A file column that is neither read nor in ``ignore`` raises, unless ``extra="ignore"``; a schema column that is not
    in the file always raises.
    """

    columns: tuple[Column, ...]
    label: Label | None = None
    weight: Weight | None = None
    time: Time | None = None
    ignore: tuple[str, ...] = ()
    extra: Literal["raise", "ignore"] = "raise"
    missing: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        for name in ("columns", "ignore", "missing"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.columns:
            fail(ConfigError, "schema", got="no columns", expected="at least one")
        for column in self.columns:
            if not isinstance(column, Column):
                fail(ConfigError, "schema: columns", got=repr(column), expected="Numeric, Bucketised or Categorical")
        repeated = _repeated([c.name for c in self.columns])
        if repeated:
            fail(
                ConfigError, "schema: repeated names", got=repeated, fix="rename, and give the file's column as source"
            )
        if self.extra not in ("raise", "ignore"):
            fail(ConfigError, "schema: extra", got=repr(self.extra), expected="'raise' or 'ignore'")
        if set(self.ignore) & set(self.sources):
            fail(ConfigError, "schema: ignore", got=sorted(set(self.ignore) & set(self.sources)), fix="these are read")
        self._check_shares()

    def _check_shares(self) -> None:
        by_name = {c.name: c for c in self.columns if isinstance(c, Categorical)}
        for column in by_name.values():
            if column.shares is None:
                continue
            where = f"schema: field {column.name!r} shares {column.shares!r}"
            owner = by_name.get(column.shares)
            if owner is None or owner.shares is not None:
                expected = "a categorical field with ids of its own"
                fail(ConfigError, where, expected=expected, fix=nearest(column.shares, tuple(by_name)))
            if owner.encoding != column.encoding:
                fail(ConfigError, where, got=column.encoding, expected=owner.encoding, fix="share the encoding too")

    @property
    def sources(self) -> tuple[str, ...]:
        """The file's columns that are read, each once."""
        targets = [t.name for t in (self.label, self.weight, self.time) if t is not None]
        return tuple(dict.fromkeys(targets + [c.source or c.name for c in self.columns]))

    def select(self, file: str, present: Sequence[str]) -> list[str]:
        """The columns to read of a file with these columns.

        Raises:
            DataError: a column is repeated, lacking, or unknown to the schema.
        """
        return select_columns(file, present, self.sources, self.ignore, self.extra)

    def fields(self, vocabularies: Vocabularies) -> Fields:
        """Table rows and widths of every field, given what was learnt from the data."""
        ids = [c for c in self.columns if not isinstance(c, Numeric)]
        ragged = [c for c in ids if isinstance(c, Categorical) and c.ragged]
        return Fields(
            rows={c.name: c.rows(vocabularies) for c in ids},
            dense={c.name: c.width for c in self.columns if isinstance(c, Numeric)},
            ragged=tuple(c.name for c in ragged),
            sequences=tuple(c.name for c in ragged if c.sequence),
            shares={c.name: c.shares for c in ids if isinstance(c, Categorical) and c.shares is not None},
            longest={c.name: c.max_length for c in ragged if c.sequence and c.max_length is not None},
        )

    def to_json(self) -> str:
        return json.dumps(to_plain(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Schema:
        """The schema of :meth:`to_json`.

        Raises:
            ConfigError: text that is no JSON, an unknown kind or key (the nearest valid one is named), a bad value.
        """
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            fail(ConfigError, "schema", got=f"no JSON ({error})")
        kinds = (Schema, Numeric, Bucketised, Categorical, Vocabulary, Hash, Range, Label, Weight, Time)
        schema = from_plain(plain, {kind.__name__: kind for kind in kinds})
        if not isinstance(schema, Schema):
            fail(ConfigError, "schema", got=type(schema).__name__, expected="an object of kind 'Schema'")
        return schema


def select_columns(
    file: str,
    present: Sequence[str],
    wanted: Sequence[str],
    ignore: Sequence[str] = (),
    extra: Literal["raise", "ignore"] = "ignore",
) -> list[str]:
    """The ``wanted`` columns, all of which must be ``present``; see :meth:`Schema.select`."""
    if repeated := _repeated(present):
        fail(DataError, f"{file}: repeated columns", got=repeated, expected="each name once")
    for name in wanted:
        if name not in present:
            fail(DataError, f"{file}: no column {name!r}", fix=nearest(name, present))
    unknown = [n for n in present if n not in wanted and n not in ignore]
    if unknown and extra == "raise":
        fix = "list them in Schema.ignore, or set extra='ignore'"
        fail(DataError, f"{file}: columns that the schema does not name", got=unknown, fix=fix)
    return list(wanted)


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({n for n in names if names.count(n) > 1})
