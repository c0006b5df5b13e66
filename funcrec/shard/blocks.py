"""The blocks of tables and of their optimizer's slots that lie on this rank, by table and place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.init import Initializer
from funcrec.core.random import fold_in, only_rows
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.optim.rowwise import RowRule
from funcrec.shard.fused import OPTIMIZERS


class Block(NamedTuple):
    """Rows and columns of a table from these offsets on, in the memory of its owner; ``slot`` None: its weights.

    A slot of one number a row is ``[rows]``.
    """

    table: str
    slot: str | None
    row: int
    column: int
    values: Tensor


def sharded_tensors(module: Any, rule: RowRule) -> Iterator[tuple[str, str | None, Any]]:
    """``(table, slot, ShardedTensor)`` of all weights and slots of a collection."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights, states = module.state_dict(), module.fused_optimizer.state_dict()["state"]
    for path, tensor in weights.items():
        yield path.split(".")[-2], None, tensor
    slots = OPTIMIZERS[rule.name][1]
    for path, state in states.items():
        table = path.split(".")[-2]
        for ours, theirs in slots.items():
            if f"{table}.{theirs}" not in state:  # left out of checkpoints, it would be lost silently
                what = f"sharded table {table!r}: statistic {ours!r} of {rule.name}"
                fail(ConfigError, what, got=sorted(state), expected=f"torchrec's {table}.{theirs}")
            yield table, ours, state[f"{table}.{theirs}"]


def local_blocks(module: Any, rule: RowRule) -> Iterator[Block]:
    """All blocks of a collection on this rank."""
    for table, slot, tensor in sharded_tensors(module, rule):
        for shard in tensor.local_shards():
            offsets = [*shard.metadata.shard_offsets, 0]
            yield Block(table, slot, offsets[0], offsets[1], shard.tensor)


def init_rows(init: Initializer, key: Tensor, shape: tuple[int, int], dtype: torch.dtype, rows: range) -> Tensor:
    """These rows of a table as they are in the whole, without the whole where its initializer is drawn by element."""
    with only_rows(shape, rows.start, rows.stop):
        made = init(key, shape, dtype)
    return made[rows.start : rows.stop] if made.shape[0] == shape[0] else made


@torch.no_grad()
def init_blocks(spec: EmbeddingSpec, rule: RowRule, module: Any, key: Tensor) -> None:
    """Write the numbers that a local store would start with."""
    tables = {t.name: t for t in spec.tables}
    for b in local_blocks(module, rule):
        table = tables[b.table]
        if b.slot is not None:
            b.values.fill_(rule.slots(table.dim)[b.slot].fill)
            continue
        rows, columns = b.values.shape
        whole = init_rows(
            table.init, fold_in(key, table.name), (table.rows, table.dim), table.dtype, range(b.row, b.row + rows)
        )
        b.values.copy_(whole[:, b.column : b.column + columns])
