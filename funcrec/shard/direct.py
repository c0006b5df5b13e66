"""The exchange where every feature has one id a row and whole columns lie on one rank: all sizes are known beforehand.

torchrec exchanges numbers of ids before it exchanges ids, and assembles answers in the order of the ranks. Here a batch
is two all-to-alls, one of ids and one of vectors, and vectors are written once, in the order of the groups. FBGEMM's
kernels, and the memory of the tables, are those of torchrec's collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from funcrec.core.ragged import Ids
from funcrec.embedding.spec import EmbeddingSpec, Lookup
from funcrec.shard.collections import name_of
from funcrec.shard.group import rank_in, world_size

KINDS = {"table_wise", "column_wise"}


class Way(NamedTuple):
    """Who answers what, as numbers that all ranks know.

    Of each rank's answer, ``[B, widths]`` in the order of the features of its kernels: the features of the ids
    (``features``), the widths of these columns (``pieces``), and where each stands in the assembled vectors
    (``starts``). ``columns``: first column and width of each lookup in these.
    """

    rank: int
    kernels: tuple[tuple[Any, int], ...]
    """FBGEMM's modules on this rank, each with its number of features."""
    features: tuple[tuple[str, ...], ...]
    pieces: tuple[tuple[int, ...], ...]
    starts: tuple[tuple[int, ...], ...]
    columns: dict[Lookup, tuple[int, int]]

    @property
    def straight(self) -> bool:
        """Whether one rank answers all, in order: then nothing is to be delivered."""
        return len(self.starts) == 1 and list(self.starts[0]) == sorted(self.starts[0])

    @property
    def widths(self) -> list[int]:
        """Columns that each rank answers."""
        return [sum(own) for own in self.pieces]


def find_way(
    spec: EmbeddingSpec, lookups: Sequence[Lookup], collection: Any, group: dist.ProcessGroup | None
) -> Way | None:
    """The direct way of a collection of bags; None where some table is sharded by rows. All ranks call it together."""
    if not set(collection._sharding_types) <= KINDS:
        return None
    number = {name_of(lk, False): i for i, lk in enumerate(lookups)}
    kernels, mine = [], []
    for lookup in collection._lookups:
        for part in lookup._emb_modules:
            found = [
                (number[feature], table.local_metadata.shard_offsets[1], table.local_cols)
                for table in part._config.embedding_tables
                for feature in table.feature_names
            ]
            kernels.append((part.emb_module, len(found)))
            mine += found
    everybodys: list[Any] = [mine]
    if world_size(group) > 1:
        everybodys = [None] * world_size(group)
        dist.all_gather_object(everybodys, mine, group)
    own, columns, end = set(lookups), {}, 0
    for lk in (lk for g in spec.groups for lk in g.lookups if lk in own):
        if lk not in columns:
            dim = spec.stack_of[lk.table].dim
            columns[lk] = (end, dim)
            end += dim
    return Way(
        rank_in(group),
        tuple(kernels),
        tuple(tuple(lookups[i].feature for i, _, _ in of) for of in everybodys),
        tuple(tuple(width for _, _, width in of) for of in everybodys),
        tuple(tuple(columns[lookups[i]][0] + column for i, column, _ in of) for of in everybodys),
        columns,
    )


def send_ids(way: Way, ids: Ids, group: dist.ProcessGroup | None) -> tuple[Tensor, Any]:
    """``[ranks, own features, B]`` ids, arriving, and what to wait for. Every rank has as many rows."""
    plain: list[Tensor] = [ids[name] for own in way.features for name in own]  # type: ignore[misc]
    rows, ranks = plain[0].shape[0], len(way.features)
    sent, own = torch.cat(plain).long(), len(way.features[way.rank])
    if ranks == 1:
        return sent.view(1, own, rows), None
    got = sent.new_empty(ranks, own, rows)
    counts = [len(names) * rows for names in way.features]
    work = dist.all_to_all_single(got.view(-1), sent, [own * rows] * ranks, counts, group=group, async_op=True)
    return got, work


def look_up(way: Way, ids: Tensor) -> Tensor:
    """What this rank's tables have for everybody's rows, ``[ranks · B, own columns]``."""
    ranks, _, rows = ids.shape
    n, done, found = ranks * rows, 0, []
    for kernel, features in way.kernels:
        own = ids[:, done : done + features].transpose(0, 1).reshape(-1)
        done += features
        offsets = torch.arange(features * n + 1, device=ids.device)
        found.append(kernel(indices=own, offsets=offsets))
    if not found:  # of no tables, but the others' gradients pass here too
        return torch.zeros(n, 0, device=ids.device, requires_grad=torch.is_grad_enabled())
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _parts(flat: Tensor, way: Way, rows: int) -> Iterator[tuple[Tensor, tuple[int, ...], tuple[int, ...]]]:
    """Of each rank that has some: its columns ``[B, width]``, the widths of its pieces, and where these belong."""
    parts = flat.split([rows * w for w in way.widths])
    for part, own, starts in zip(parts, way.pieces, way.starts, strict=True):
        if own:
            yield part.view(rows, -1), own, starts


class Deliver(Function):
    """Vectors to the ranks whose rows they are of: ``[ranks · B, own columns]`` to ``[B, all columns]``.

    Backward: gradients on the same way back, each summed where its row is.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, way: Way, rows: int, group: dist.ProcessGroup | None) -> Tensor:
        ctx.way, ctx.rows, ctx.group = way, rows, group
        widths, ranks = way.widths, len(way.pieces)
        got = local.reshape(-1)
        if ranks > 1:
            got = local.new_empty(rows * sum(widths))
            counts = [rows * w for w in widths]
            dist.all_to_all_single(got, local.reshape(-1), counts, [rows * widths[way.rank]] * ranks, group=group)
        at: dict[int, Tensor] = {}
        for part, own, starts in _parts(got, way, rows):
            at |= zip(starts, part.split(own, dim=1), strict=True)
        return torch.cat([at[start] for start in sorted(at)], dim=1)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None, None]:
        way, rows, group = ctx.way, ctx.rows, ctx.group
        widths, ranks = way.widths, len(way.pieces)
        sent = d.new_empty(rows * sum(widths))
        for part, own, starts in _parts(sent, way, rows):
            wanted = [d.narrow(1, start, width) for start, width in zip(starts, own, strict=True)]
            torch.cat(wanted, dim=1, out=part)
        if ranks == 1:
            return sent.view(rows, -1), None, None, None
        got = d.new_empty(ranks * rows, widths[way.rank])
        counts = [rows * w for w in widths]
        dist.all_to_all_single(got.view(-1), sent, [rows * widths[way.rank]] * ranks, counts, group=group)
        return got, None, None, None
