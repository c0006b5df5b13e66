"""Plans in torchrec's form: really sharded by it, and read back from it."""

import dataclasses
import logging
import os
import warnings

import numpy as np
import pytest
import torch

from funcrec.core.errors import ConfigError
from funcrec.embedding import Table
from funcrec.shard import Constraint, from_torchrec, plan, to_torchrec
from funcrec.shard.costs import KINDS
from tests.shard.processes import run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trec = pytest.importorskip("torchrec")
    from torchrec.distributed import DistributedModelParallel

ROWS = {"a": 40, "b": 7, "c": 3, "d": 64, "e": 5}
TABLES = [Table(name=name, rows=rows, dim=16) for name, rows in ROWS.items()]


def collection(pooled: bool, tables=TABLES, device="cpu"):
    kind, config = (
        (trec.EmbeddingBagCollection, trec.EmbeddingBagConfig)
        if pooled
        else (trec.EmbeddingCollection, trec.EmbeddingConfig)
    )
    return kind(
        device=torch.device(device),
        tables=[
            config(name=t.name, num_embeddings=t.rows, embedding_dim=t.dim, feature_names=[f"f_{t.name}"])
            for t in tables
        ],
    )


def features(rank: int):
    """Of five rows, up to three ids a feature."""
    generator = torch.Generator().manual_seed(rank)
    lengths = torch.randint(0, 4, (5 * len(ROWS),), generator=generator)
    counts = lengths.reshape(len(ROWS), 5).sum(1).tolist()
    ids = [torch.randint(0, n, (c,), generator=generator) for n, c in zip(ROWS.values(), counts, strict=True)]
    return trec.KeyedJaggedTensor(keys=[f"f_{n}" for n in ROWS], values=torch.cat(ids), lengths=lengths)


def full_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {t.name: torch.randn(t.rows, t.dim, generator=generator) for t in TABLES}


def fill(state) -> None:
    """Every shard's part of the full weights, where the state says it lies."""
    for key, tensor in state.items():
        whole = full_weights()[key.split(".")[-2]]
        if not hasattr(tensor, "local_shards"):
            tensor.copy_(whole)
            continue
        for shard in tensor.local_shards():
            (row, column), (rows, columns) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
            shard.tensor.copy_(whole[row : row + rows, column : column + columns])


def outputs(result, pooled: bool) -> dict[str, torch.Tensor]:
    return result.to_dict() if pooled else {name: jagged.values() for name, jagged in result.items()}


def sharded_and_whole(rank, world, group, made, pooled):
    """On this rank, the outputs of the sharded collection and of an unsharded one; and what lies where."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _sharded_and_whole(rank, made, pooled)
    finally:
        logging.disable(logging.NOTSET)


def in_hosts(rank, world, group, made, pooled):
    """The same in processes that believe to be on several hosts."""
    os.environ["LOCAL_WORLD_SIZE"] = str(made.setting.topology.local)
    return sharded_and_whole(rank, world, group, made, pooled)


def _sharded_and_whole(rank, made, pooled):
    whole = collection(pooled)
    sharded = DistributedModelParallel(whole, device=torch.device("cpu"), plan=to_torchrec(made, whole))
    reference = collection(pooled)
    with torch.no_grad():
        fill(sharded.state_dict())
        fill(reference.state_dict())
    ours = {k: v.detach() for k, v in outputs(sharded(features(rank)), pooled).items()}
    expected = {k: v.detach() for k, v in outputs(reference(features(rank)), pooled).items()}
    held = {
        key.split(".")[-2]: [(*s.metadata.shard_offsets, *s.metadata.shard_sizes) for s in tensor.local_shards()]
        for key, tensor in sharded.state_dict().items()
        if hasattr(tensor, "local_shards")
    }
    return ours, expected, held


@pytest.mark.parametrize(
    ("pooled", "topology", "kinds"),
    [
        (True, "2xcpu", ("data_parallel", "table_wise", "row_wise", "column_wise", "table_wise")),
        (False, "2xcpu", ("row_wise", "table_wise", "row_wise", "column_wise", "table_wise")),
        (True, "1xcpu", ("data_parallel", "table_wise", "row_wise", "table_wise", "table_wise")),
        (True, "2x1xcpu", ("data_parallel", "table_row_wise", "row_wise", "grid", "table_row_wise")),
    ],
)
def test_torchrec_shards_a_plan_and_its_outputs_are_those_of_one_process(tmp_path, ranks, pooled, topology, kinds):
    asked = {
        t.name: Constraint(sharding=(kind,), columns=8 if kind in ("column_wise", "grid") else None)
        for t, kind in zip(TABLES, kinds, strict=True)
    }
    made = plan(TABLES, topology, batch=5, constraints=asked)
    world = made.setting.topology.ranks
    # torchrec keeps the process groups of hosts for the life of a process.
    if "grid" in kinds:
        results = run(world, in_hosts, made, pooled, tmp_path=tmp_path)
    else:
        results = ranks.run(world, sharded_and_whole, made, pooled)
    for rank, (ours, expected, held) in enumerate(results):
        assert sorted(ours) == sorted(expected)
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value)
        for p in made.placements:
            if p.kind != "data_parallel":
                mine = [s[1:] for s in p.shards if s.rank == rank]
                assert [h for h in held[p.table.name] if h[2]] == mine, p.table.name


def test_data_parallel_sequences_on_a_cpu_are_refused():
    made = plan(TABLES, "2xcpu", batch=5, default=Constraint(sharding=("data_parallel",)))
    with pytest.raises(ConfigError, match=r"'a'.*data_parallel sequences"):
        to_torchrec(made, collection(False))


def test_a_plan_comes_back_from_torchrec_as_it_went():
    tables = [Table(name=f"t{i}", rows=10**5 + i, dim=128) for i in range(6)]
    asked = {f"t{i}": Constraint(sharding=(kind,)) for i, kind in enumerate(KINDS)}
    made = plan(tables, "2x4xH100", batch=32, constraints=asked)
    back = from_torchrec(to_torchrec(made, collection(True, tables, "meta")), tables, made)
    assert back.placements == made.placements
    np.testing.assert_array_equal(back.load, made.load)


def test_tables_that_the_plan_does_not_know_are_named():
    made = plan(TABLES[:4], "2xcpu", batch=4)
    with pytest.raises(ConfigError, match="'e' is not in the plan"):
        to_torchrec(made, collection(True))
    with pytest.raises(ConfigError, match=r"'a': rows, dim.*\(40, 16\)"):
        to_torchrec(plan([dataclasses.replace(TABLES[0], rows=41)], "2xcpu", batch=4), collection(True, TABLES[:1]))
    with pytest.raises(ConfigError, match="Linear"):
        to_torchrec(made, torch.nn.Linear(1, 1))
