"""Arrow columns to numbers, texts and items, whole columns at a time.

Each conversion returns a mask of the entries that it could not convert. The fast path converts everything at once;
only when that fails are the odd ones looked for, among the distinct values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Items(NamedTuple):
    """The items of all rows one after the other, and how many each row has."""

    values: pa.Array
    lengths: np.ndarray

    def rows(self) -> np.ndarray:
        """The row of each item."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def filter(self, keep: np.ndarray) -> Items:
        lengths = np.bincount(self.rows()[keep], minlength=len(self.lengths))
        return Items(self.values.filter(pa.array(keep)), lengths)


def is_text(cells: pa.Array) -> bool:
    return pa.types.is_string(cells.type)


def is_list(cells: pa.Array) -> bool:
    t = cells.type
    return pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t) or pa.types.is_map(t)


def normalise(cells: pa.Array, missing: tuple[str, ...]) -> pa.Array:
    """Dictionaries decoded, all texts of one type, and the texts that mean an empty cell as nulls."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_null(cells.type) or pa.types.is_large_string(cells.type) or pa.types.is_string_view(cells.type):
        cells = cells.cast(pa.string())
    if is_text(cells) and missing:
        empty = pc.equal(cells, missing[0]) if len(missing) == 1 else pc.is_in(cells, pa.array(missing))
        cells = pc.if_else(empty, pa.scalar(None, pa.string()), cells)
    return cells


def mask(condition: pa.Array) -> np.ndarray:
    """A boolean Arrow array as numpy, nulls as False."""
    return pc.fill_null(condition, False).to_numpy(zero_copy_only=False)


def convert(cells: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """``cells`` cast to ``kind``, with nulls where that is impossible, and a mask of those."""
    try:
        return pc.cast(cells, kind), np.zeros(len(cells), dtype=bool)
    except pa.ArrowInvalid:
        coded = cells.dictionary_encode()
        odd = np.array([not _casts(value, kind) for value in coded.dictionary], dtype=bool)
        bad = mask(pc.take(pa.array(odd), coded.indices))
        kept = pc.if_else(pa.array(bad), pa.scalar(None, cells.type), cells)
        return pc.cast(kept, kind), bad


def _casts(value: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        pc.cast(value, kind)
    except pa.ArrowInvalid:
        return False
    return True


def to_floats(cells: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Float64 with NaN for nulls, and a mask of what is no finite number (of float32's range)."""
    numbers, bad = convert(cells, pa.float64())
    floats = pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)
    bad |= mask(pc.is_valid(numbers)) & ~(np.abs(floats) <= np.finfo(np.float32).max)
    return np.where(bad, np.nan, floats), bad


def to_text(values: pa.Array) -> pa.Array:
    """Tokens: texts as they are, integers and booleans as Arrow prints them."""
    return values if is_text(values) else pc.cast(values, pa.string())


def to_items(cells: pa.Array, separator: str | None) -> Items:
    """The items of list cells, or of text cells split at ``separator``; an empty cell has none."""
    if is_text(cells):
        cells = pc.split_pattern(cells, separator)
    if pa.types.is_map(cells.type):
        cells = cells.cast(pa.list_(pa.struct([("key", cells.type.key_type), ("value", cells.type.item_type)])))
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return Items(pc.list_flatten(cells), lengths)


def split_pairs(items: pa.Array) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """Keys and weights of ``key:weight`` texts or two-field structs, and a mask of the items that are no pair."""
    if pa.types.is_struct(items.type):
        bad = np.zeros(len(items), dtype=bool)
        keys, weights = (pc.struct_field(items, i) for i in (0, 1))
        return keys, weights, bad
    parts = pc.split_pattern(items, ":", max_splits=1, reverse=True)
    bad = ~mask(pc.equal(pc.list_value_length(parts), 2))
    if bad.any():
        filler = pa.scalar(["", "0"], parts.type)
        parts = pc.if_else(pa.array(bad), filler, parts)
    return pc.list_element(parts, 0), pc.list_element(parts, 1), bad
