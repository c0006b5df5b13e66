"""Columns of a side file, found by a key: the attributes of an item, the age of a user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.data import cells as cl
from funcrec.data.chunk import Chunk
from funcrec.data.schema import Schema, select_columns

if TYPE_CHECKING:
    from funcrec.data.source import Format


@dataclass(frozen=True, kw_only=True)
class Join:
    """Adds columns to the rows of a source before the schema reads them.

    A key that the side file does not have gives an empty cell; what that means is the schema's affair. Keys that are a
    list, a history of items say, give a list of cells: ``sequence=True`` reads one value a step, ``sequence=True,
    bag=True`` one list of values a step. The side file is held in memory.

    Args:
        path: the side file, a directory or a pattern.
        key: its column of keys, each of them once.
        on: the column of the rows that holds keys, or lists of keys.
        columns: the side file's columns, each by its name or as (name that the schema reads, name in the file).
        format: of the side file; from its name if not given.
        separator: splits text in ``on`` into a list of keys.
    """

    path: str
    key: str
    on: str
    columns: tuple[str | tuple[str, str], ...]
    format: Format | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns:
            fail(ConfigError, f"Join on {self.on!r}: columns", got="none", expected="at least one")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The name that the schema reads and the side file's, for each column."""
        return tuple((c, c) if isinstance(c, str) else c for c in self.columns)

    def select(self, file: str, present: Sequence[str]) -> list[str]:
        """The columns to read of the side file."""
        return select_columns(file, present, list(dict.fromkeys((self.key, *(c for _, c in self.pairs)))))


class Joined(NamedTuple):
    """A schema some of whose columns come from side files."""

    schema: Schema
    joins: tuple[Join, ...]

    def select(self, file: str, present: Sequence[str]) -> list[str]:
        """The columns to read of the file itself: what no join makes, and what the joins need."""
        made = [name for join in self.joins for name, _ in join.pairs]
        if both := sorted({name for name in made if made.count(name) > 1 or name in present}):
            fail(DataError, f"{file}: columns that a join makes too", got=both, fix="give the joined one another name")
        needed = [*self.schema.sources, *(join.on for join in self.joins)]
        if unused := [name for name in made if name not in needed]:
            fail(ConfigError, "joined columns that the schema does not read", got=unused, fix="leave them out")
        wanted = [name for name in dict.fromkeys(needed) if name not in made]
        return select_columns(file, present, wanted, self.schema.ignore, self.schema.extra)


class Side(NamedTuple):
    """A side file in memory: the keys, and the columns by the names that the schema reads."""

    join: Join
    keys: pa.Array
    columns: dict[str, pa.Array]


def read_side(join: Join, chunks: Iterable[Chunk]) -> Side:
    """The side file's columns.

    Raises:
        DataError: a row that does not split into columns, no rows, an empty key, or a key twice.
    """
    read = list(chunks)
    for chunk in read:
        for bad in chunk.bad:
            fail(DataError, bad.message, fix="correct the side file")
    where = f"{join.path}: column {join.key!r}"
    if not sum(chunk.table.num_rows for chunk in read):
        fail(DataError, where, got="no rows", expected="at least one key")
    column = lambda name: pa.concat_arrays([chunk.table.column(name) for chunk in read])  # noqa: E731
    keys = _keys(column(join.key), where)
    counted = pc.value_counts(keys)
    repeated = counted.field(0).filter(pc.greater(counted.field(1), 1))
    if keys.null_count or len(repeated):
        seen = "an empty key" if keys.null_count else f"{repeated[:5].to_pylist()} more than once"
        fail(DataError, where, got=seen, expected="each key once")
    return Side(join, keys, {name: column(side) for name, side in join.pairs})


def add_columns(chunk: Chunk, side: Side) -> Chunk:
    """The chunk with the side file's columns beside its own."""
    join = side.join
    where = f"{chunk.file}: column {join.on!r}"
    cells = cl.normalise(chunk.table.column(join.on), ("",))
    lengths = None
    if cl.is_list(cells) or join.separator is not None:
        if not cl.is_list(cells) and not cl.is_text(cells):
            fail(DataError, f"{where}: type", got=cells.type, expected="lists or text", fix="leave separator out")
        cells, lengths = cl.to_items(cells, join.separator)
    keys = _keys(cells, where)
    known = side.keys
    if keys.type != known.type:
        keys, known = cl.to_text(keys), cl.to_text(known)
    index = pc.index_in(keys, value_set=known)
    table = chunk.table
    for name, values in side.columns.items():
        found = values.take(index)
        if lengths is not None:
            found = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), found)
        table = table.append_column(name, found)
    return chunk._replace(table=table)


def _keys(cells: pa.Array, where: str) -> pa.Array:
    """Integers of one width, or texts."""
    cells = cl.normalise(cells, ("",))
    if pa.types.is_integer(cells.type):
        return pc.cast(cells, pa.int64())
    if not cl.is_text(cells):
        fail(DataError, f"{where}: type", got=cells.type, expected="integers or text as keys")
    return cells
