"""Ids outside their table: inside a stacked tensor they would silently read another table's rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.core.errors import DataError, fail
from funcrec.embedding.spec import Lookup


def on_device(x: Tensor) -> bool:
    """Whether a look at x would make the host wait or end a trace: what it must hold is then asserted on the device."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def in_range(ids: Tensor, bounds: Tensor | int) -> Tensor:
    """``0 <= id < bound`` in two launches, not three: the remainder of the floored division is then the id itself."""
    return ids.remainder(bounds) == ids


def check_range(
    where: str, lookups: Sequence[Lookup], ids: Tensor, bounds: Tensor | int, of: Tensor | None = None
) -> None:
    """Raise on an id outside its own table: inside the stacked tensor it would silently read another table's row.

    ``where`` names the tables in the assertion on a device, which cannot tell which it is. ``of``: which lookup each id
    belongs to; None: that of its column, or the only one.
    """
    if on_device(ids):
        inside = in_range(ids, bounds).all()
        torch._assert_async(inside, f"an id is out of the range of its table ({where})")
        return
    bad = (ids < 0) | (ids >= bounds)
    if bool(bad.any()):
        at = bad.nonzero()[0]
        which = int(of[at[0]]) if of is not None else int(at[-1]) if ids.dim() == 2 else 0
        lookup = lookups[which]
        rows = bounds if isinstance(bounds, int) else int(bounds[which if of is None else at[0]])
        fail(
            DataError,
            f"feature {lookup.feature!r}: id out of range of table {lookup.table!r}",
            got=int(ids[tuple(at)]),
            expected=f"0 to {rows - 1}",
            fix="enlarge the table, or map unknown ids to its out-of-vocabulary row",
        )
