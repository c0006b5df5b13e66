"""What a plan must be for a store to follow it."""

from __future__ import annotations

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.shard.collections import quiet_torchrec
from funcrec.shard.options import SPANS
from funcrec.shard.placement import Plan


def _per_host(ranks: int) -> int:
    """Ranks on each host, as torchrec deals tables to hosts: by the environment of the launcher."""
    quiet_torchrec()
    from torchrec.distributed.comm import get_local_size

    return get_local_size(ranks)


def check_plan(spec: EmbeddingSpec, plan: Plan, ranks: int) -> None:
    """Raise unless the tables of this spec can lie on so many ranks as the plan says.

    Raises:
        ConfigError: a plan for other tables, another number of ranks or of ranks a host; columns not in fours; on a
            CPU, ranks without rows.
    """
    if plan.setting.topology.ranks != ranks:
        expected = f"a plan for {ranks}, the size of the process group"
        fail(ConfigError, "sharded_store: ranks of the plan", got=plan.setting.topology.ranks, expected=expected)
    missing = [t.name for t in spec.tables if t.name not in plan]
    if missing:
        fail(ConfigError, "sharded_store: tables without a place in the plan", got=missing[:20], fix="plan this spec")
    topology = plan.setting.topology
    by_host = sorted(t.name for t in spec.tables if SPANS[plan[t.name].kind] == "host")
    if by_host and (local := _per_host(ranks)) != topology.per_host:
        fix = "plan with as many ranks a host as are launched on each"
        what = f"sharded_store: ranks a host, of tables sharded by host ({by_host[:20]})"
        fail(ConfigError, what, got=f"{topology.per_host} in the plan", expected=local, fix=fix)
    for t in spec.tables:
        place = plan[t.name]
        if place.kind != "data_parallel" and place.columns % 4:
            fix = "make the table data-parallel, or its dim a multiple of 4"
            what = f"sharded_store: table {t.name!r}, {place.kind}: columns of a shard"
            fail(ConfigError, what, got=place.columns, expected="a multiple of 4, for FBGEMM", fix=fix)
        if not topology.cuda and len(place.pieces) > len(place.shards):
            fix = "make it table-wise or data-parallel, or use fewer ranks"
            seen = f"{t.rows} rows on {len(place.pieces)} ranks, {len(place.shards)} of which get any"
            fail(
                ConfigError,
                f"sharded_store: table {t.name!r}, {place.kind}",
                got=seen,
                expected="rows for each",
                fix=fix,
            )
