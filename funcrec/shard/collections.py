"""torchrec's collections for a spec: bags of ids for pooled tables, single rows for those that a history reads.

A table belongs to one collection, which owns its memory. One that some history reads is looked up row by row, for its
pooled lookups too: their rows are summed where they arrive. Such a collection has tables of one dim. Data-parallel
tables belong to none.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from funcrec.embedding.spec import EmbeddingGroup, EmbeddingSpec, Lookup, SequenceGroup, Table
from funcrec.optim.rowwise import RowRule
from funcrec.shard.fused import fused_params
from funcrec.shard.placement import Plan
from funcrec.shard.torchrec_plan import to_torchrec

TYPES = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16"}


def name_of(lookup: Lookup, rows: bool) -> str:
    """The key of a lookup among its collection's features; the rows of one id are the same however they are pooled."""
    return f"{lookup.feature}@{lookup.table}" + ("" if rows else f":{lookup.pooling}")


class Layout(NamedTuple):
    """Which lookups each collection answers, in the order of its features, and what is replicated.

    ``rows``: by the name of a collection, one a dim.
    """

    bags: tuple[Lookup, ...]
    rows: dict[str, tuple[Lookup, ...]]
    replicated: EmbeddingSpec

    @staticmethod
    def of(spec: EmbeddingSpec, plan: Plan) -> Layout:
        copies = {t.name for t in spec.tables if plan[t.name].kind == "data_parallel"}
        single = {lk.table for s in spec.sequences for lk in s.lookups} - copies
        bags = {lk for g in spec.groups for lk in g.lookups if lk.table not in single | copies}
        rows = {name_of(lk, True): lk for g in spec.every_group for lk in g.lookups if lk.table in single}
        at = {t.name: i for i, t in enumerate(spec.tables)}
        order = lambda lks: tuple(sorted(lks, key=lambda lk: (at[lk.table], lk.feature, lk.pooling)))  # noqa: E731
        own = lambda g: tuple(lk for lk in g.lookups if lk.table in copies)  # noqa: E731
        replicated = EmbeddingSpec(
            tables=tuple(t for t in spec.tables if t.name in copies),
            groups=tuple(EmbeddingGroup(name=g.name, lookups=own(g)) for g in spec.groups if own(g)),
            sequences=tuple(
                SequenceGroup(name=s.name, lookups=own(s), pad_to=s.pad_to) for s in spec.sequences if own(s)
            ),
        )
        dims = {lk: spec.stack_of[lk.table].dim for lk in rows.values()}
        by_dim = {f"rows{d}": order(lk for lk in dims if dims[lk] == d) for d in sorted(set(dims.values()))}
        return Layout(order(bags), by_dim, replicated)

    @property
    def collections(self) -> dict[str, tuple[Lookup, ...]]:
        """The lookups of all collections."""
        return ({"bags": self.bags} if self.bags else {}) | self.rows


def quiet_torchrec() -> None:
    """Import torchrec without the warnings that it and FBGEMM give when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            import torchrec.distributed
        finally:
            logging.disable(level)
    del torchrec
    # Said at each call of a collective that torchrec makes, by torch 2.13.
    warnings.filterwarnings("ignore", "`torch.distributed.(reduce_scatter|all_gather)", FutureWarning)


def make_collection(
    spec: EmbeddingSpec,
    lookups: tuple[Lookup, ...],
    plan: Plan,
    rule: RowRule,
    group: dist.ProcessGroup,
    device: torch.device,
    *,
    rows: bool,
    checked: bool,
) -> Any:
    """The sharded collection of the tables of these lookups: row by row, or by bags; its weights are not set yet.

    ``checked``: see :func:`funcrec.shard.fused.fused_params`.
    """
    quiet_torchrec()
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.types import ShardingEnv
    from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

    def config(kind: Any, table: Table) -> Any:
        return kind(
            name=table.name,
            num_embeddings=table.rows,
            embedding_dim=table.dim,
            data_type=DataType[TYPES[table.dtype]],
            feature_names=[name_of(lk, rows) for lk in lookups if lk.table == table.name],
        )

    tables = [t for t in spec.tables if t.name in {lk.table for lk in lookups}]
    meta = torch.device("meta")
    module: Any
    sharder: Any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own sharded tensors
        if rows:
            module = EmbeddingCollection([config(EmbeddingConfig, t) for t in tables], device=meta)
            sharder = EmbeddingCollectionSharder(fused_params=fused_params(rule, checked))
        else:
            module = EmbeddingBagCollection([config(EmbeddingBagConfig, t) for t in tables], device=meta)
            sharder = EmbeddingBagCollectionSharder(fused_params=fused_params(rule, checked))
        env = ShardingEnv.from_process_group(group)
        return sharder.shard(module, to_torchrec(plan, module).plan[""], env, device)
