"""Tokens that are computed from a cell: the integer of a log-squared count, the parts of a date.

``log_square`` is the usual treatment of Criteo's counts: floor(ln(x)^2) for x > 2, else x itself. ``yymmddhh_*`` read a
date such as Avazu's 14102123 (2014-10-21, 23 o'clock): the hour of day, the weekday (Monday is 0), whether the day is
a Saturday or Sunday.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from funcrec.data.cells import convert, mask, to_text
from funcrec.data.columns import Derivation


def derive(derivation: Derivation, cells: pa.Array) -> tuple[pa.Array, np.ndarray, str]:
    """The derived integers (null for an empty cell), a mask of what was impossible, and what had been expected."""
    if derivation == "log_square":
        numbers, bad = convert(cells, pa.int64())
        x = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
        large = np.floor(np.log(np.maximum(x, 2).astype(np.float64)) ** 2).astype(np.int64)
        return _masked(np.where(x > 2, large, x), numbers), bad, "an integer"

    texts = to_text(cells)
    present = mask(pc.is_valid(texts))
    well_formed = mask(pc.match_substring_regex(texts, r"^[0-9]{8}$"))
    digits = pc.if_else(pa.array(well_formed), texts, pa.scalar(None, pa.string()))
    number = pc.fill_null(pc.cast(digits, pa.int64()), 14010100).to_numpy(zero_copy_only=False)
    date, hour = np.divmod(number, 100)
    days, exists = _days(date)
    weekday = (days + 3) % 7  # day 0, 1970-01-01, was a Thursday
    parts = {
        "yymmddhh_hour": hour,
        "yymmddhh_weekday": weekday,
        "yymmddhh_weekend": (weekday >= 5).astype(np.int64),
    }
    bad = present & ~(well_formed & exists & (hour < 24))
    return _masked(parts[derivation], texts), bad, "a date and hour YYMMDDHH"


def _days(yymmdd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days since 1970-01-01 of dates of the years 2000 to 2099, and whether there is such a date."""
    year, month, day = 2000 + yymmdd // 10000, yymmdd // 100 % 100, yymmdd % 100
    months = (year - 1970) * 12 + np.clip(month, 1, 12) - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]")
    length = (months + 1).astype("datetime64[M]").astype("datetime64[D]") - first
    exists = (month >= 1) & (month <= 12) & (day >= 1) & (day <= length.astype(np.int64))
    return first.astype(np.int64) + day - 1, exists


def _masked(values: np.ndarray, like: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_valid(like), pa.array(values), pa.scalar(None, pa.int64()))
