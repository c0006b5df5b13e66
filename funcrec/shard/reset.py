"""What managed tables need of many ranks: everybody's ids, and rows that start afresh wherever they lie."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import Store, Tables
from funcrec.optim.rowwise import RowRule
from funcrec.shard.blocks import local_blocks
from funcrec.shard.copies import gathered
from funcrec.shard.group import world_size


def everyones_ids(group: dist.ProcessGroup | None = None) -> Callable[[Tensor], Tensor]:
    """A function that concatenates the ids ``[n]`` of all ranks in the order of the ranks; n may differ and be 0.

    Args:
        group: the ranks; None: all of them.
    """

    def gather(ids: Tensor) -> Tensor:
        ranks = world_size(group)
        if ranks == 1:
            return ids
        sizes = [torch.zeros(1, dtype=torch.int64, device=ids.device) for _ in range(ranks)]
        dist.all_gather(sizes, torch.tensor([ids.shape[0]], device=ids.device), group=group)
        return gathered(ids, torch.cat(sizes).tolist(), group)

    return gather


@torch.no_grad()
def reset_blocks(
    spec: EmbeddingSpec, rule: RowRule, copies: Store, tables: Tables, table: str, rows: Tensor, values: Tensor
) -> Tables:
    """Write ``values`` ``[n, dim]`` and the beginnings of all slots into those of ``rows`` that this rank holds.

    All ranks need the same arguments; they do not talk to each other.

    Raises:
        ConfigError: a rank that holds column shards of the table with different rows.
    """
    if table in copies.spec.stack_of:
        return {**tables, "replicated": copies.reset(tables["replicated"], table, rows, values)}
    slots = rule.slots(spec.stack_of[table].dim)
    blocks = [b for module in tables["modules"].values() for b in local_blocks(module, rule) if b.table == table]
    # Of a statistic of one number a row, torchrec counts rows through all column shards: the weights say which it is.
    starts = sorted({b.row for b in blocks if b.slot is None})
    if len(starts) > 1:
        fail(ConfigError, f"reset: table {table!r}: first rows of its shards on one rank", got=starts, expected="one")
    for b in blocks:
        at = rows - starts[0]
        mine = (at >= 0) & (at < b.values.shape[0])
        if b.slot is None:
            part = values[mine, b.column : b.column + b.values.shape[1]]
            b.values.index_copy_(0, at[mine], part.to(b.values.dtype))
        else:
            b.values.index_fill_(0, at[mine], slots[b.slot].fill)
    return tables
