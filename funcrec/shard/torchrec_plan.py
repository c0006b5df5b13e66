"""Plans for torchrec and from it: what ``DistributedModelParallel`` and ``torchrec.distributed.shard`` take.

The only file of the planner that needs torchrec, imported when it is first asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.spec import EmbeddingSpec, Table
from funcrec.shard.costs import Kind, table_uses
from funcrec.shard.options import SPANS, make_option
from funcrec.shard.placement import Placement, Plan

_THEIRS: dict[Kind, str] = {
    "data_parallel": "data_parallel",
    "table_wise": "table_wise",
    "row_wise": "row_wise",
    "column_wise": "column_wise",
    "table_row_wise": "table_row_wise",
    "grid": "grid_shard",
}
_OURS = {theirs: ours for ours, theirs in _THEIRS.items()} | {"table_column_wise": "column_wise"}


def to_torchrec(plan: Plan, module: Any) -> Any:
    """The ``ShardingPlan`` of a module: of each embedding collection in it, the tables by name.

    Args:
        module: an ``EmbeddingBagCollection`` or ``EmbeddingCollection``, or a module that holds some. For
            ``torchrec.distributed.shard`` of one collection, take ``.plan[""]`` of its plan.

    Raises:
        ConfigError: no collection, a table that the plan lacks or knows with another shape, a data-parallel sequence on
            a CPU.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchrec and FBGEMM warn when they are imported
        from torchrec import EmbeddingBagCollection, EmbeddingCollection
        from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan
    made: dict[str, Any] = {}
    cuda = plan.setting.topology.cuda
    for path, part in module.named_modules():
        if isinstance(part, EmbeddingBagCollection):
            configs = part.embedding_bag_configs()
        elif isinstance(part, EmbeddingCollection):
            configs = part.embedding_configs()
        else:
            continue
        made[path] = EmbeddingModuleShardingPlan({c.name: _parameter(plan, c) for c in configs})
        for name, theirs in made[path].items():
            if theirs.sharding_type == "data_parallel" and isinstance(part, EmbeddingCollection) and not cuda:
                what = f"to_torchrec: table {name!r}: data_parallel sequences on a CPU, which FBGEMM would pool"
                fail(ConfigError, what, fix="constrain the table to another sharding, or look it up without torchrec")
    if not made:
        fail(ConfigError, "to_torchrec: module", got=type(module).__name__, expected="an embedding collection inside")
    return ShardingPlan(plan=made)


def _parameter(plan: Plan, config: Any) -> Any:
    """A table's ``ParameterSharding``; shards without rows are kept, as torchrec counts one for each rank."""
    from torch.distributed._shard.sharding_spec import EnumerableShardingSpec, ShardMetadata
    from torchrec.distributed.types import ParameterSharding

    if config.name not in plan:
        known = sorted(p.table.name for p in plan.placements)[:20]
        fail(ConfigError, f"to_torchrec: table {config.name!r} is not in the plan", expected=f"one of {known}")
    p, seen = plan[config.name], (config.num_embeddings, config.embedding_dim)
    if seen != (p.table.rows, p.table.dim):
        expected = f"{(p.table.rows, p.table.dim)} as planned"
        fail(ConfigError, f"to_torchrec: table {config.name!r}: rows, dim", got=seen, expected=expected)
    if p.kind == "data_parallel":
        ranks = list(range(plan.setting.topology.ranks))
        return ParameterSharding(sharding_type=_THEIRS[p.kind], compute_kernel="dense", ranks=ranks)
    topology, shards = plan.setting.topology, []
    for rank, row, column, rows, columns in p.pieces:
        device = f"cuda:{rank % topology.per_host}" if topology.cuda else "cpu"
        shards.append(
            ShardMetadata(shard_offsets=[row, column], shard_sizes=[rows, columns], placement=f"rank:{rank}/{device}")
        )
    return ParameterSharding(
        sharding_type=_THEIRS[p.kind],
        compute_kernel="fused",
        ranks=[piece.rank for piece in p.pieces],
        sharding_spec=EnumerableShardingSpec(shards),
    )


def from_torchrec(
    sharding: Any, tables: EmbeddingSpec | Sequence[Table], like: Plan, *, features: Mapping[str, float] | None = None
) -> Plan:
    """A torchrec ``ShardingPlan`` as a plan of ours, with our estimates: to read, draw and compare it.

    Args:
        tables: all tables of the plan.
        like: a plan with the topology, batch, rule and reserves to assume.
        features: as in :func:`funcrec.shard.plan`.

    Raises:
        ConfigError: a table that the plan lacks, column shards of several widths.
    """
    given = tables.tables if isinstance(tables, EmbeddingSpec) else tuple(tables)
    uses = table_uses(tables, features or {})
    parameters = {name: p for part in sharding.plan.values() for name, p in part.items()}
    made = []
    for table in given:
        if table.name not in parameters:
            fail(ConfigError, f"from_torchrec: table {table.name!r}", expected=f"one of {sorted(parameters)[:20]}")
        theirs = parameters[table.name]
        kind: Kind = _OURS[theirs.sharding_type]
        first: tuple[int, ...] = (0,)
        columns = table.dim
        if SPANS[kind] != "all":
            shards = theirs.sharding_spec.shards
            heads = {s.shard_offsets[1]: r for s, r in zip(shards, theirs.ranks, strict=True) if not s.shard_offsets[0]}
            widths = {s.shard_sizes[1] for s in shards}
            if len(widths) > 1:
                fail(ConfigError, f"from_torchrec: table {table.name!r}: widths", got=widths, expected="one width")
            first, columns = tuple(heads[c] for c in sorted(heads)), widths.pop()
        option = make_option(table, uses[table.name], kind, columns, like.setting)
        made.append(Placement(table, kind, columns, first, uses[table.name], option))
    return replace(like, placements=tuple(made))
