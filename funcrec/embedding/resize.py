"""A map of ids for a table of another number of rows: to go on when a table has become too small, or is too large."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.embedding.zch import Map, ZchConfig, best, init_map, scores


def resized(config: ZchConfig, held: Map, rows: int, step: int) -> tuple[Map, Tensor]:
    """The map for a table of ``rows`` rows, and where their contents come from.

    All ids stay where there is room; else those of the highest scores at ``step`` do, as in an eviction. An id keeps
    its slot where the table still has it. Candidates are forgotten. With the tables of a row-wise store::

        held, source = resized(config, tables["zch"]["item"], new_rows, step)
        moved = source >= 0
        new_weight[moved] = old_weight[source[moved]]           # its optimizer's slots likewise

    Args:
        step: the map's own count, ``tables["zch"][table]["step"]``.

    Returns:
        the map, and for each row the old row whose contents it takes over, int64 ``[rows]``; -1: none, it is fresh. The
        last row, that of unknown ids, takes over the old last one.

    Raises:
        ConfigError: fewer than two rows.
    """
    new = init_map(config, rows, held["ids"].device)
    used, n = int(held["used"]), rows - 1
    ids, counts, last, old = (held[name][:used] for name in ("ids", "counts", "last", "slots"))
    kept = best(scores(config, counts, last, step), n)
    old, used = old[kept], int(kept.sum())
    slots, outside = old.clone(), old >= n
    vacant = torch.ones(n, dtype=torch.bool, device=old.device).index_fill_(0, old[~outside], False)
    free = vacant.nonzero().squeeze(1)
    slots[outside], spare = free.tensor_split([int(outside.sum())])
    for name, x in (("ids", ids[kept]), ("counts", counts[kept]), ("last", last[kept]), ("slots", slots)):
        new[name][:used] = x
    new["slots"][used:] = spare
    new["used"].fill_(used)
    source = torch.full((rows,), -1, device=old.device).index_copy_(0, slots, old)
    source[n] = held["slots"].shape[0]
    return {**held, **new}, source
