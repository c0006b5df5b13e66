"""Plans against those of torchrec's planner, both by our estimates; and its planner minimising our estimates."""

import dataclasses
import logging
import random
import warnings

import numpy as np
import pytest
import torch

from funcrec.embedding import Table
from funcrec.shard import Constraint, from_torchrec, parse_topology, plan
from funcrec.shard.costs import KINDS, TIMES, shard_costs, table_uses

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trec = pytest.importorskip("torchrec")
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology, proposers
    from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
    from torchrec.distributed.planner.types import ParameterConstraints, Perf, ShardEstimator, Storage


def bags(tables):
    """A collection that takes no memory."""
    configs = [
        trec.EmbeddingBagConfig(name=t.name, num_embeddings=t.rows, embedding_dim=t.dim, feature_names=[t.name])
        for t in tables
    ]
    return trec.EmbeddingBagCollection(device=torch.device("meta"), tables=configs)


class OurCosts(ShardEstimator):
    """Lets torchrec's planner minimise our estimates."""

    def __init__(self, tables, setting):
        self.tables, self.uses, self.setting = {t.name: t for t in tables}, table_uses(tables, {}), setting

    def estimate(self, sharding_options, *args, **kwargs):
        for option in sharding_options:
            kind = {"grid_shard": "grid"}.get(option.sharding_type, option.sharding_type)
            for s in option.shards:
                rows = np.array([s.size[0]])
                use = self.uses[option.name]
                cost = shard_costs(self.tables[option.name], use, kind, rows, s.size[1], self.setting)[0]
                s.storage = Storage(hbm=int(np.ceil(cost[:3].sum())), ddr=0)
                s.perf = Perf(*cost[TIMES], 0.0)


def by_torchrec(tables, made, estimator):
    """The plan of torchrec's planner with all of its proposers, for the same machines and the same room for tables."""
    t = made.setting.topology
    room = int(made.capacity - made.local_bytes)
    topology = Topology(world_size=t.ranks, local_world_size=t.local, compute_device="cuda", hbm_cap=room)
    kinds = ["grid_shard" if k == "grid" else k for k in KINDS]
    limits = {
        x.name: ParameterConstraints(sharding_types=kinds, compute_kernels=["fused", "dense"], min_partition=32)
        for x in tables
    }
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=made.setting.batch,
        enumerator=EmbeddingEnumerator(topology, made.setting.batch, limits, estimator),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        constraints=limits,
        debug=False,
        proposer=[
            proposers.GreedyProposer(),
            proposers.GreedyProposer(use_depth=False),
            proposers.UniformProposer(),
            proposers.DynamicProgrammingProposer(),
        ],
    )
    sharding = planner.plan(bags(tables), [EmbeddingBagCollectionSharder()])
    return from_torchrec(sharding, tables, made)


@pytest.mark.parametrize(
    ("topology", "count", "batch", "seed", "memory"),
    [
        ("8xH200", 26, 8192, 0, None),
        ("2xH100", 8, 2048, 1, None),
        ("2x4xH100", 12, 2048, 2, 1.2),
        ("16xH100", 12, 512, 3, None),
        ("4xH200", 12, 512, 4, 1.15),
    ],
)
@pytest.mark.parametrize("estimates", ["theirs", "ours"])
def test_no_plan_of_torchrecs_planner_is_faster_by_our_estimates(topology, count, batch, seed, memory, estimates):
    draw = random.Random(seed)
    tables = [
        Table(name=f"t{i}", rows=int(10 ** draw.uniform(1, 7)), dim=draw.choice([64, 128, 256])) for i in range(count)
    ]
    machines = parse_topology(topology)
    every = Constraint(sharding=KINDS)
    if memory is not None:
        need = plan(tables, machines, batch=batch, default=every).rank_bytes.mean()
        machines = dataclasses.replace(machines, memory=need * memory / 0.85)
    made = plan(tables, machines, batch=batch, default=every)
    estimator = OurCosts(tables, made.setting) if estimates == "ours" else None
    logging.disable(logging.CRITICAL)
    try:
        theirs = by_torchrec(tables, made, estimator)
    finally:
        logging.disable(logging.NOTSET)
    assert made.rank_bytes.max() <= made.capacity + 1
    assert made.table_time <= theirs.table_time * (1 + 1e-9)
