"""One pass over the training data that learns what the schema asks for, in memory bounded by the distinct values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from funcrec.core.errors import DataError, fail
from funcrec.data.chunk import BadRows
from funcrec.data.columns import Bucketised, Categorical, Numeric, Vocabulary
from funcrec.data.parse import parse
from funcrec.data.schema import Schema
from funcrec.data.source import Source
from funcrec.data.vocabulary import Moments, Vocabularies

_COUNTED_AT_ONCE = 1 << 20
_DISTINCT = 1 << 17


def learn(schema: Schema, source: Source, *, bad_rows: BadRows | None = None) -> Vocabularies:
    """Vocabularies, quantile boundaries and moments of this data; independent of how it is cut into files.

    Tokens are ordered by count, the most frequent first, then by their bytes, the empty cell last among equals.

    Args:
        bad_rows: how many bad rows to leave out; none if not given.

    Raises:
        DataError: bad data (see :class:`BadRows`), no rows at all, or a field to standardise without any number.
    """
    bad_rows = bad_rows or BadRows()
    counts: dict[str, _Counts] = {}
    sketches: dict[str, Sketch] = {}
    moments: dict[str, _Sums] = {}
    for column in schema.columns:
        if isinstance(column, Categorical) and isinstance(column.encoding, Vocabulary) and column.shares is None:
            counts[column.name] = _Counts(column.encoding.min_count)
        elif isinstance(column, Bucketised) and column.quantiles is not None:
            sketches[column.name] = Sketch(column.quantiles)
        elif isinstance(column, Numeric) and column.transform == "standardize":
            moments[column.name] = _Sums()
    n = 0
    for chunk in source.chunks(schema):
        rows, bad = parse(schema, chunk)
        bad_rows.add(bad)
        n += rows.n
        for column in schema.columns:
            owner = (column.shares if isinstance(column, Categorical) else None) or column.name
            if owner in counts:
                counts[owner].add(rows.tokens[column.name].values)
            elif column.name in sketches:
                sketches[column.name].add(rows.numbers[column.name])
            elif column.name in moments:
                moments[column.name].add(rows.numbers[column.name])
    if n == 0:
        fail(DataError, f"source {list(source.paths)}", got="no usable rows", expected="at least one")
    return Vocabularies(
        tokens={name: c.frequent() for name, c in counts.items()},
        boundaries={name: s.boundaries() for name, s in sketches.items()},
        moments={name: m.moments(name) for name, m in moments.items()},
    )


@dataclass
class _Counts:
    """How often each token occurred: counted by chunk, merged when the parts grow long."""

    min_count: int
    parts: list[pa.Table] = field(default_factory=list)
    pending: int = 0

    def add(self, tokens: pa.StringArray) -> None:
        counted = pc.value_counts(tokens)
        self.parts.append(pa.Table.from_arrays([counted.field(0), counted.field(1)], names=["token", "count"]))
        self.pending += len(counted)
        if self.pending > max(_COUNTED_AT_ONCE, 2 * self.parts[0].num_rows):
            self._merge()

    def _merge(self) -> pa.Table:
        merged = pa.concat_tables(self.parts).group_by("token", use_threads=False).aggregate([("count", "sum")])
        self.parts, self.pending = [merged.rename_columns(["token", "count"])], merged.num_rows
        return self.parts[0]

    def frequent(self) -> pa.StringArray:
        merged = self._merge()
        merged = merged.filter(pc.greater_equal(merged["count"], self.min_count))
        order = pc.sort_indices(merged, [("count", "descending"), ("token", "ascending")])
        return pa.concat_arrays(merged["token"].take(order).chunks or [pa.array([], pa.string())])


@dataclass
class Sketch:
    """The distinct values of a column and their counts: exact while there are at most 2 * ``limit`` of them.

    Beyond that ``limit`` values at evenly spaced ranks stand for all; each time this happens the rank of a boundary
    moves by at most the 2 * limit-th part of the rows.
    """

    parts: int
    limit: int = _DISTINCT
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, values: np.ndarray) -> None:
        present = values[~np.isnan(values)]
        both = np.concatenate([self.values, present])
        weights = np.concatenate([self.counts, np.ones(len(present), np.int64)])
        self.values, where = np.unique(both, return_inverse=True)
        self.counts = np.bincount(where, weights=weights, minlength=len(self.values)).astype(np.int64)
        if len(self.values) > 2 * self.limit:
            rank = np.cumsum(self.counts)
            edges = np.arange(self.limit + 1) * rank[-1] // self.limit
            middle = np.searchsorted(rank, (edges[:-1] + edges[1:]) / 2, side="right")
            self.values, where = np.unique(self.values[middle], return_inverse=True)
            self.counts = np.bincount(where, weights=np.diff(edges)).astype(np.int64)

    def boundaries(self) -> tuple[float, ...]:
        """The smallest values with more than k / parts of the rows at or below; none leaves a bucket empty."""
        rank = np.cumsum(self.counts)
        if not len(rank):
            return ()
        cuts = np.searchsorted(rank, rank[-1] * np.arange(1, self.parts) / self.parts, side="right")
        return tuple(np.unique(self.values[cuts[cuts > 0]]).tolist())


@dataclass
class _Sums:
    """Count, mean and sum of squared deviations, merged chunk by chunk (Chan, Golub, LeVeque 1979, Equation 2.1)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        present = values[~np.isnan(values)]
        if not len(present):
            return
        mean, n = float(present.mean()), self.n + len(present)
        shift = mean - self.mean
        self.squares += float(((present - mean) ** 2).sum()) + shift**2 * self.n * len(present) / n
        self.mean, self.n = self.mean + shift * len(present) / n, n

    def moments(self, name: str) -> Moments:
        if self.n == 0:
            fail(DataError, f"field {name!r}: mean and deviation", got="no numbers, only empty cells")
        std = (self.squares / self.n) ** 0.5
        return Moments(self.mean, std if std > 0 else 1.0)
