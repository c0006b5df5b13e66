"""A plan: where every shard of every table lies, and what that means for each rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funcrec.embedding.spec import Table
from funcrec.shard.costs import BUFFERS, BYTES, STATE, TIMES, WEIGHTS, Kind, Setting, Use, local_bytes
from funcrec.shard.options import Option
from funcrec.shard.packing import Ranks


class Shard(NamedTuple):
    """A block of a table on one rank."""

    rank: int
    row_offset: int
    col_offset: int
    rows: int
    cols: int


@dataclass(frozen=True)
class Placement:
    """One table: how it is sharded, and the first rank of each of its column shards.

    Bytes are of all ranks together; ``rank_bytes`` and ``time`` are those of the largest shard.
    """

    table: Table
    kind: Kind
    columns: int
    first_ranks: tuple[int, ...]
    use: Use
    option: Option = field(repr=False, compare=False)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards with rows, column shard by column shard; a data-parallel table has a whole copy on each rank."""
        return tuple(s for s in self.pieces if s.rows)

    @property
    def pieces(self) -> tuple[Shard, ...]:
        """:attr:`shards`, and those that are empty because the table has fewer rows than there are ranks."""
        made = []
        for block, rank in enumerate(self.first_ranks):
            offset = 0
            for count, rows in zip(self.option.counts.tolist(), self.option.rows.tolist(), strict=True):
                for _ in range(count):
                    made.append(Shard(rank, offset, block * self.columns, rows, self.columns))
                    offset += 0 if self.kind == "data_parallel" else rows
                    rank += 1
        return tuple(made)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Those that hold a shard, in the order of the shards."""
        return tuple(s.rank for s in self.shards)

    def _total(self, column: int) -> float:
        return self.option.blocks * float(self.option.counts @ self.option.costs[:, column])

    @property
    def weight_bytes(self) -> int:
        return round(self._total(WEIGHTS))

    @property
    def state_bytes(self) -> int:
        return round(self._total(STATE))

    @property
    def buffer_bytes(self) -> float:
        """Ids received and outputs made, with the gradient of these; a data-parallel table's gradient."""
        return self._total(BUFFERS)

    @property
    def rank_bytes(self) -> float:
        return self.option.most_bytes

    @property
    def time(self) -> float:
        return self.option.most_time


@dataclass(frozen=True)
class Plan:
    """Placements of all tables in the order they were given. ``print(plan)`` shows it, :meth:`picture` draws it.

    Args:
        reserve: the share of each rank's memory kept free.
        dense_bytes: of each rank, for everything that is not tables.
        dense_time: seconds of a step's device work that is not tables.
    """

    setting: Setting
    placements: tuple[Placement, ...]
    reserve: float
    dense_bytes: float
    dense_time: float

    def __getitem__(self, table: str) -> Placement:
        return self._by_name[table]

    def __contains__(self, table: object) -> bool:
        return table in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, Placement]:
        return {p.table.name: p for p in self.placements}

    @cached_property
    def load(self) -> np.ndarray:
        """``[ranks, 6]``: bytes of weights, state and buffers, seconds of lookup, exchange and update."""
        ranks = Ranks(self.setting.topology, np.inf)
        for p in self.placements:
            ranks.put(p.option, p.first_ranks)
        return ranks.load

    @property
    def local_bytes(self) -> float:
        """Of each rank's own batch: ids, embeddings and the gradient of these."""
        uses = {p.table.name: p.use for p in self.placements}
        return local_bytes([p.table for p in self.placements], uses, self.setting.batch)

    @property
    def capacity(self) -> float:
        """Bytes that each rank may fill: its memory less the reserve."""
        return self.setting.topology.memory * (1 - self.reserve)

    @property
    def rank_bytes(self) -> np.ndarray:
        """``[ranks]``: everything: tables, their optimizer, buffers, the rank's own batch, ``dense_bytes``."""
        return self.load[:, BYTES].sum(1) + self.local_bytes + self.dense_bytes

    @property
    def rank_time(self) -> np.ndarray:
        """``[ranks]``: seconds of table work in a step, waiting not counted."""
        return self.load[:, TIMES].sum(1)

    @property
    def imbalance(self) -> float:
        """The busiest rank's time over the mean: 1 at best."""
        mean = float(self.rank_time.mean())
        return float(self.rank_time.max()) / mean if mean else 1.0

    @property
    def table_time(self) -> float:
        """Seconds of a step for tables: lookup, exchange and update, each as long as its slowest rank."""
        return float(self.load[:, TIMES].max(0).sum())

    @property
    def collectives(self) -> int:
        """Of a step: three for ids (their number, lengths, values), two for each way in which outputs and gradients
        travel, one for the gradients of data-parallel tables, one for the dense ones."""
        if self.setting.topology.ranks == 1:
            return 0
        kinds = {p.kind for p in self.placements}
        sharded = len(kinds - {"data_parallel"})
        return (3 + 2 * sharded if sharded else 0) + ("data_parallel" in kinds) + 1

    @property
    def host_time(self) -> float:
        """Seconds that the host needs to launch a step; no step is shorter."""
        t = self.setting.topology
        return t.host + t.collective * self.collectives

    @property
    def step_time(self) -> float:
        """``max(host_time, table_time + dense_time)``: the host runs ahead of the device, which overlaps nothing."""
        return max(self.host_time, self.table_time + self.dense_time)

    def __str__(self) -> str:
        from funcrec.shard.explain import describe

        return describe(self)

    def picture(self, path: str | Path) -> None:
        """Memory and time of every rank, and what the kinds of sharding hold, as a file that matplotlib can write."""
        from funcrec.shard.picture import draw

        draw(self, Path(path))
