"""A dataset that fits into memory: encoded once, shuffled exactly, split by position or by time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.core.random import permutation
from funcrec.core.rows import concat, cut, select
from funcrec.data.chunk import BadRows
from funcrec.data.encode import encode
from funcrec.data.parse import parse
from funcrec.data.schema import Fields, Schema
from funcrec.data.source import Source
from funcrec.data.vocabulary import Vocabularies


@dataclass(frozen=True, kw_only=True, eq=False)
class InMemory:
    """All rows as one batch, and what its fields are."""

    rows: Batch
    fields: Fields

    def __len__(self) -> int:
        return len(self.rows)

    def batches(
        self, batch_size: int, *, key: Tensor | None = None, start: int = 0, drop_last: bool = False
    ) -> Iterator[Batch]:
        """One pass in the order that ``key`` alone decides; in the file's order without one.

        Args:
            start: the number of the first batch to give: with the same key, the rest of an interrupted pass.
            drop_last: leave out a last batch of fewer rows.

        Raises:
            ConfigError: a batch size below 1, or a start beyond the pass.
        """
        check_pass(batch_size, start)
        n = len(self)
        total = n // batch_size if drop_last else -(-n // batch_size)
        if start > total:
            fail(ConfigError, "batches: start", got=start, expected=f"at most {total}, the number of batches")
        return self._batches(batch_size, key, range(start, total))

    def _batches(self, size: int, key: Tensor | None, numbers: range) -> Iterator[Batch]:
        device = self.rows.features.device or "cpu"  # rows that were never moved
        order = None if key is None else permutation(key.to(device), len(self))
        for number in numbers:
            first, last = number * size, min((number + 1) * size, len(self))
            yield cut(self.rows, first, last) if order is None else select(self.rows, order[first:last])

    def select(self, rows: Tensor) -> InMemory:
        """The rows with these indices, in this order."""
        return replace(self, rows=select(self.rows, rows))

    def split_tail(self, fraction: float) -> tuple[InMemory, InMemory]:
        """All but the last ``fraction`` of the rows, and those."""
        cut_at = len(self) - _part(len(self), fraction)
        head, tail = cut(self.rows, 0, cut_at), cut(self.rows, cut_at, len(self))
        return replace(self, rows=head), replace(self, rows=tail)

    def split_time(self, fraction: float) -> tuple[InMemory, InMemory]:
        """The rows before some moment, and about the latest ``fraction`` of them: those of that moment or later.

        Raises:
            DataError: the schema has no time, or all rows would fall on one side.
        """
        if "time" not in self.rows.features:
            fail(DataError, "split_time", got="rows without a time", fix="set Schema.time")
        time = self.rows.features["time"]
        moment = time.sort().values[len(self) - _part(len(self), fraction)]
        late = time >= moment
        if bool(late.all()):
            fail(DataError, "split_time", got="no row before the split", expected="several moments", fix="split_tail")
        return self.select((~late).nonzero()[:, 0]), self.select(late.nonzero()[:, 0])

    def to(self, device: torch.device | str) -> InMemory:
        """On another device, where batches are then made too; the order of a key is the same there."""
        return replace(self, rows=self.rows.to(device))


def load(schema: Schema, source: Source, vocabularies: Vocabularies, *, bad_rows: BadRows | None = None) -> InMemory:
    """Read and encode everything.

    Args:
        bad_rows: how many bad rows to leave out; none if not given.

    Raises:
        DataError: bad data (see :class:`BadRows`), or no rows at all.
        ConfigError: the vocabularies were not learnt for this schema.
    """
    bad_rows = bad_rows or BadRows()
    batches = []
    for chunk in source.chunks(schema):
        rows, bad = parse(schema, chunk)
        bad_rows.add(bad)
        batches.append(encode(schema, vocabularies, rows))
    if not sum(map(len, batches)):
        fail(DataError, f"source {list(source.paths)}", got="no usable rows", expected="at least one")
    return InMemory(rows=concat(batches), fields=schema.fields(vocabularies))


def check_pass(batch_size: int, start: int) -> None:
    if batch_size < 1:
        fail(ConfigError, "batches: batch_size", got=batch_size, expected="at least 1")
    if start < 0:
        fail(ConfigError, "batches: start", got=start, expected="a batch number of at least 0")


def _part(n: int, fraction: float) -> int:
    part = round(n * fraction)
    if not 0 < part < n:
        expected = "a number in (0, 1) that leaves rows on both sides"
        fail(ConfigError, "split: fraction", got=f"{fraction} of {n} rows", expected=expected)
    return part
