"""Ids on their way to the ranks that hold their tables: in steps, so that work can go on between them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from funcrec.core.errors import ShapeError, fail
from funcrec.core.ragged import Ids, Nested
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import Tables
from funcrec.embedding.touched import batch_size
from funcrec.shard.collections import Layout
from funcrec.shard.direct import send_ids
from funcrec.shard.features import agree, check_ids, has_weights, keyed


class Arrived(NamedTuple):
    """What a rank got to look up: by collection, torchrec's context and lists of ids; ``rows`` of every rank's batch,
    its own being padded to that. ``direct``: the ids of bags, where those came on the direct way."""

    batch: int
    rows: int
    lists: dict[str, tuple[Any, Any]]
    direct: Tensor | None


class Sent(dict[str, Any]):
    """The ids of a batch by feature, as they were given, and where they are on their way.

    Every rank must go the same steps of the same batches in the same order.
    """

    def __init__(self, ids: Mapping[str, Any], way: Generator[None, None, Arrived]):
        super().__init__(ids)
        self._way, self._arrived = way, None

    def advance(self) -> bool:
        """One step more: start what can be started now. Whether they have arrived."""
        if self._arrived is None:
            try:
                next(self._way)
            except StopIteration as end:
                self._arrived = end.value
        return self._arrived is not None

    def arrived(self) -> Arrived:
        """At the end of the way, now."""
        while not self.advance():
            pass
        assert self._arrived is not None
        return self._arrived

    def record_stream(self, stream: torch.Stream) -> None:
        """As for tensors: what arrives is used on another stream than it was sent on."""
        arrived = self.arrived()
        if arrived.direct is not None:
            arrived.direct.record_stream(stream)
        for context, kjts in arrived.lists.values():
            context.record_stream(stream)  # it holds how rows are put in order when they come back
            for kjt in kjts:
                kjt.record_stream(stream)


def send(
    spec: EmbeddingSpec, layout: Layout, tables: Tables, ids: Ids, group: dist.ProcessGroup | None, check: bool
) -> Sent:
    """Send the ids of a batch, all collections together. Weights and rows of tables are not looked at.

    Raises:
        DataError, ShapeError: as :func:`funcrec.embedding.lookup.gather`.
    """
    batch = batch_size(spec, ids) if spec.features else 0
    nested = sorted({lk.feature for g in spec.groups for lk in g.lookups if isinstance(ids[lk.feature], Nested)})
    if nested:
        fail(ShapeError, f"features {nested}", got="a bag of ids a step", expected="ids to pool: list it in a sequence")
    weighted = has_weights(layout.bags, ids)
    single = tables["way"] is not None and all(isinstance(ids[lk.feature], Tensor) for lk in layout.bags)
    agreed = agree(batch, weighted, single and not weighted, group)

    def way() -> Generator[None, None, Arrived]:
        yield  # the message that ranks agree by is under way
        rows, some, even = agreed()
        rows = max(rows, 1)  # torchrec has no batch of no rows
        collections = layout.collections
        direct, work = None, None
        if even:
            lookups = collections.pop("bags")
            if check:
                plain: Any = [ids[lk.feature] for lk in lookups]
                check_ids(spec, lookups, torch.stack(plain, dim=1), None)
            direct, work = send_ids(tables["way"], ids, group)
        contexts, ahead = {}, {}
        for name, lookups in collections.items():
            by_row, module = name in layout.rows, tables["modules"][name]
            kjt = keyed(spec, lookups, ids, rows, by_row=by_row, weighted=some and not by_row, check=check)
            contexts[name] = module.create_context()
            ahead[name] = module.input_dist(contexts[name], kjt)
        if ahead:
            yield  # so are the numbers of ids that each rank gets from each
        coming = {name: x.wait() for name, x in ahead.items()}
        yield  # and the ids
        if work is not None:
            work.wait()
        return Arrived(batch, rows, {name: (contexts[name], x.wait()) for name, x in coming.items()}, direct)

    return Sent(ids, way())
