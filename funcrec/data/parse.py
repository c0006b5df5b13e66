"""A chunk of cells to typed, checked columns: everything that can be wrong with a row is found here.

What comes out needs only the vocabularies to become tensors, and that step cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from funcrec.core.errors import DataError, fail
from funcrec.data import cells as cl
from funcrec.data.chunk import BadRow, Chunk
from funcrec.data.columns import DOMAIN, Bucketised, Categorical, Numeric, Range
from funcrec.data.derive import derive
from funcrec.data.schema import Schema
from funcrec.data.targets import Label

_TOKENS = (pa.types.is_integer, pa.types.is_boolean)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)


class Tokens(NamedTuple):
    """A categorical column: texts (integers for a range), null where empty; lengths and weights if ragged.

    ``steps``: of a sequence of bags, how many each row has; ``lengths`` are then those of the bags.
    """

    values: pa.Array
    lengths: np.ndarray | None = None
    weights: np.ndarray | None = None
    steps: np.ndarray | None = None


class Parsed(NamedTuple):
    """Checked columns by field name; ``numbers`` are float64 ``[n, width]`` with NaN for an empty cell."""

    n: int
    tokens: dict[str, Tokens]
    numbers: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]


@dataclass
class _Problems:
    """What is wrong with which row of one chunk: for each row the first finding."""

    chunk: Chunk
    found: dict[int, str] = field(default_factory=dict)

    def add(self, column: str, bad: np.ndarray, cells: pa.Array, expected: str) -> None:
        for row in np.flatnonzero(bad).tolist():
            if row not in self.found:
                where = f"{self.chunk.file} {self.chunk.unit} {self.chunk.numbers[row]}: column {column!r}"
                self.found[row] = f"{where}: got {cells[row].as_py()!r}, expected {expected}"

    def rows(self) -> tuple[BadRow, ...]:
        numbers = self.chunk.numbers
        return tuple(BadRow(self.chunk.file, int(numbers[r]), self.found[r]) for r in sorted(self.found))


def parse(schema: Schema, chunk: Chunk) -> tuple[Parsed, tuple[BadRow, ...]]:
    """The usable rows as typed columns, and the other rows with what is wrong with them, in the file's order.

    Raises:
        DataError: a whole column has a type that its field cannot use, such as lists for a number.
    """
    problems = _Problems(chunk)
    parsed = _parse(schema, chunk, problems)
    bad = problems.rows()
    if not bad:
        return parsed, tuple(sorted(chunk.bad, key=lambda row: row.number))
    keep = np.ones(chunk.table.num_rows, dtype=bool)
    keep[list(problems.found)] = False
    return parse(schema, chunk.filter(keep)._replace(bad=chunk.bad + bad))


def _parse(schema: Schema, chunk: Chunk, problems: _Problems) -> Parsed:
    read = {name: cl.normalise(chunk.table.column(name), schema.missing) for name in schema.sources}
    tokens: dict[str, Tokens] = {}
    numbers: dict[str, np.ndarray] = {}
    targets: dict[str, np.ndarray] = {}
    if schema.label is not None:
        targets["label"] = _label(schema.label, read[schema.label.name], problems)
    for role, target in (("weight", schema.weight), ("time", schema.time)):
        if target is not None:
            values = _numbers(target.name, read[target.name], 1, None, True, problems)[:, 0]
            if role == "weight":
                problems.add(target.name, np.less(values, 0), read[target.name], "a weight of at least 0")
            targets[role] = values
    for column in schema.columns:
        source = column.source or column.name
        cells = read[source]
        if isinstance(column, Categorical):
            tokens[column.name] = _tokens(column, source, cells, problems)
        elif isinstance(column, Bucketised):
            numbers[column.name] = _numbers(source, cells, 1, None, False, problems)
        else:
            numbers[column.name] = _dense(column, source, cells, problems)
    return Parsed(chunk.table.num_rows, tokens, numbers, targets)


def _label(label: Label, cells: pa.Array, problems: _Problems) -> np.ndarray:
    if label.positive is not None:
        _check_values(label.name, cells, _TOKENS, problems.chunk)
        texts = cl.to_text(cells)
        positive = cl.mask(pc.is_in(texts, pa.array(label.positive)))
        if label.negative is None:
            problems.add(label.name, ~cl.mask(pc.is_valid(texts)), cells, "a label")
        else:
            known = positive | cl.mask(pc.is_in(texts, pa.array(label.negative)))
            problems.add(label.name, ~known, cells, f"one of {list(label.positive + label.negative)}")
        return positive.astype(np.float64)
    values = _numbers(label.name, cells, 1, None, True, problems)[:, 0]
    if label.threshold is not None:
        return (values >= label.threshold).astype(np.float64)
    if label.binary:
        problems.add(label.name, ~np.isin(values, (0, 1)), cells, "a label of 0 or 1")
    return values


def _numbers(
    source: str, cells: pa.Array, width: int, separator: str | None, needed: bool, problems: _Problems
) -> np.ndarray:
    """Float64 ``[n, width]``, NaN for an empty cell."""
    if width == 1 and separator is None:
        _check_values(source, cells, _NUMBERS, problems.chunk)
        values, bad = cl.to_floats(cells)
        problems.add(source, bad, cells, "a finite number")
        values = values[:, None]
    else:
        _check_items(source, cells, separator, problems.chunk)
        items = cl.to_items(cells, separator)
        _check_values(source, items.values, _NUMBERS, problems.chunk)
        flat, bad = cl.to_floats(items.values)
        rows, fits = items.rows(), items.lengths == width
        wrong = np.bincount(rows[bad | np.isnan(flat)], minlength=len(cells)) > 0
        problems.add(source, wrong | ~(fits | cl.mask(pc.is_null(cells))), cells, f"{width} finite numbers")
        values = np.full((len(cells), width), np.nan)
        values[fits] = flat[fits[rows]].reshape(-1, width)
    if needed:
        problems.add(source, cl.mask(pc.is_null(cells)), cells, "a number, not an empty cell")
    return values


def _dense(column: Numeric, source: str, cells: pa.Array, problems: _Problems) -> np.ndarray:
    values = _numbers(source, cells, column.width, column.separator, column.missing is None, problems)
    low = DOMAIN.get(column.transform)
    if low is not None:
        problems.add(source, np.any(values <= low, axis=1), cells, f"a number above {low:g} ({column.transform})")
    return values


def _tokens(column: Categorical, source: str, cells: pa.Array, problems: _Problems) -> Tokens:
    weights = steps = None
    if not column.ragged:
        _check_values(source, cells, _TOKENS, problems.chunk)
        values, lengths, rows = cells, None, np.arange(len(cells))
        if column.derive is not None:
            values, bad, expected = derive(column.derive, cells)
            problems.add(source, bad, cells, expected)
    else:
        outer = None if column.nested else column.separator
        _check_items(source, cells, outer, problems.chunk)
        items = _last(column, cl.to_items(cells, outer))
        values, lengths, rows = items.values, items.lengths, items.rows()
        if column.nested:
            _check_items(f"{source}[]", values, column.separator, problems.chunk)
            bags = cl.to_items(cl.normalise(values, ("",)), column.separator)
            values, lengths, steps, rows = bags.values, bags.lengths, lengths, rows[bags.rows()]
        if column.weighted:
            _check_values(source, values, [pa.types.is_struct], problems.chunk)
            values, texts, bad = cl.split_pairs(values)
            weights, odd = cl.to_floats(texts)
            wrong = np.bincount(rows[bad | odd | np.isnan(weights)], minlength=len(cells)) > 0
            problems.add(source, wrong, cells, "items key:weight with finite weights")
        _check_values(source, values, _TOKENS, problems.chunk)
        hollow = cl.mask(pc.is_null(values))
        if cl.is_text(values):
            hollow |= cl.mask(pc.equal(values, ""))
        problems.add(source, np.bincount(rows[hollow], minlength=len(cells)) > 0, cells, "items that are not empty")
    if isinstance(column.encoding, Range):
        values, outside, expected = _in_range(column.encoding, values, empty_is_bad=lengths is None)
        problems.add(source, np.bincount(rows[outside], minlength=len(cells)) > 0, cells, expected)
    else:
        values = cl.to_text(values)
    return Tokens(values, lengths, weights, steps)


def _last(column: Categorical, items: cl.Items) -> cl.Items:
    """At most ``max_length`` items a row: the last ones of a sequence, the first ones of a bag."""
    if column.max_length is None or (items.lengths <= column.max_length).all():
        return items
    ends = np.cumsum(items.lengths)
    index = np.arange(len(items.values))
    if column.sequence:
        return items.filter(index >= np.repeat(ends - column.max_length, items.lengths))
    return items.filter(index < np.repeat(ends - items.lengths + column.max_length, items.lengths))


def _in_range(encoding: Range, values: pa.Array, empty_is_bad: bool) -> tuple[pa.Array, np.ndarray, str]:
    integers, bad = cl.convert(values, pa.int64())
    low, high = encoding.offset, encoding.offset + encoding.rows
    if encoding.out_of_range == "raise":
        bad |= cl.mask(pc.or_kleene(pc.less(integers, low), pc.greater_equal(integers, high)))
        if empty_is_bad:
            bad |= cl.mask(pc.is_null(values))
    return integers, bad, f"an integer in [{low}, {high})" if encoding.out_of_range == "raise" else "an integer"


def _check_values(source: str, cells: pa.Array, kinds: Sequence[Callable[[pa.DataType], bool]], chunk: Chunk) -> None:
    """The column's Arrow type is text or one of these kinds, or the whole column is unusable."""
    if not cl.is_text(cells) and not any(kind(cells.type) for kind in kinds):
        fix = "set bag or sequence" if cl.is_list(cells) else "convert it to text, integers or numbers"
        fail(DataError, f"{chunk.file}: column {source!r}: type", got=cells.type, expected=_named(kinds), fix=fix)


def _check_items(source: str, cells: pa.Array, separator: str | None, chunk: Chunk) -> None:
    if not cl.is_list(cells) and (separator is None or not cl.is_text(cells)):
        expected = "lists" if separator is None else "lists or text"
        fix = "give a separator for text" if cl.is_text(cells) else None
        fail(DataError, f"{chunk.file}: column {source!r}: type", got=cells.type, expected=expected, fix=fix)


def _named(kinds: Sequence[Callable[[pa.DataType], bool]]) -> str:
    return " or ".join(["text", *(kind.__name__.removeprefix("is_") for kind in kinds)])
