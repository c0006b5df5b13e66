"""A piece of one file that remembers where its rows came from, and the account of rows that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from funcrec.core.errors import ConfigError, DataError, fail


class Selects(Protocol):
    """Who knows which columns to read of a file with these ones: a schema, or what a join leaves of it."""

    def select(self, file: str, present: Sequence[str]) -> list[str]: ...


class BadRow(NamedTuple):
    """A row that cannot be used: where it is, and a message that says why."""

    file: str
    number: int
    message: str


class Chunk(NamedTuple):
    """Rows of one file, in order.

    ``numbers``: the line (of text, the header counted) or row (of parquet) of each row, from 1. ``bad``: rows that the
    reader could not even split into columns; they are not in ``table``.
    """

    file: str
    table: pa.RecordBatch
    numbers: np.ndarray
    unit: str
    bad: tuple[BadRow, ...] = ()

    def filter(self, keep: np.ndarray) -> Chunk:
        table = self.table.filter(pa.array(keep))
        return self._replace(table=table, numbers=self.numbers[keep])

    def pieces(self, rows: int) -> Iterator[Chunk]:
        """This chunk in pieces of at most ``rows`` rows."""
        for start in range(0, max(1, self.table.num_rows), rows):
            bad = self.bad if start == 0 else ()
            table = self.table.slice(start, rows)
            yield self._replace(table=table, numbers=self.numbers[start : start + rows], bad=bad)


@dataclass(eq=False)
class BadRows:
    """Skips and remembers at most ``limit`` bad rows, and raises at the next one. The default tolerates none.

    One object may accompany every pass over the same files, that of the vocabularies and each epoch: a row counts once.
    """

    limit: int = 0
    _messages: dict[tuple[str, int], str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.limit < 0:
            fail(ConfigError, "BadRows: limit", got=self.limit, expected="a number of rows")

    @property
    def count(self) -> int:
        return len(self._messages)

    @property
    def examples(self) -> tuple[str, ...]:
        """The messages of the first ten."""
        return tuple(self._messages.values())[:10]

    def add(self, rows: Iterable[BadRow]) -> None:
        """Account for these rows.

        Raises:
            DataError: there are now more than ``limit``.
        """
        for row in rows:
            self._messages[row.file, row.number] = row.message
            if self.count > self.limit:
                if self.limit == 0:
                    fail(DataError, row.message, fix="correct the data, or allow for some with BadRows(limit=...)")
                first = next(iter(self._messages.values()))
                what = f"more than {self.limit} bad rows; the first: {first}; now: {row.message}"
                fail(DataError, what, fix="correct the data, or raise the limit")


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Turns Arrow's and the system's errors into one that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        fail(DataError, f"{file}: cannot be read", got=str(error).strip().rstrip("."))
