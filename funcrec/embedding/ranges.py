"""Ids outside their table: inside a stacked tensor they would silently read another table's rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.core.errors import DataError, fail
from funcrec.embedding.spec import Lookup, Stack


def check_range(stack: Stack, lookups: Sequence[Lookup], ids: Tensor, bounds: Tensor, of: Tensor | None = None) -> None:
    """Raise on an id outside its own table: inside the stacked tensor it would silently read another table's row."""
    bad = (ids < 0) | (ids >= bounds)
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        torch._assert_async(~bad.any(), f"an id is out of the range of its table (stack {stack.name!r})")
    elif bool(bad.any()):
        at = bad.nonzero()[0]
        lookup = lookups[int(of[at[0]]) if of is not None else int(at[1])]
        rows = next(t.rows for t in stack.tables if t.name == lookup.table)
        fail(
            DataError,
            f"feature {lookup.feature!r}: id out of range of table {lookup.table!r}",
            got=int(ids[tuple(at)]),
            expected=f"0 to {rows - 1}",
            fix="enlarge the table, or map unknown ids to its out-of-vocabulary row",
        )
