"""A training step over ranks is the step of one process on everybody's rows."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from funcrec import metrics, models, optim
from funcrec.core import tree
from funcrec.core.errors import ConfigError, NonFiniteError, ShapeError
from funcrec.core.groups import Group
from funcrec.core.init import Normal
from funcrec.core.ragged import Nested, Ragged
from funcrec.core.random import key
from funcrec.core.rows import concat
from funcrec.embedding import rowwise_store, spec_for
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.shard import sharded_store
from funcrec.shard.checkpoint import tensors_of
from funcrec.shard.merge import merge_states
from funcrec.shard.replication import replicas
from funcrec.shard.share import together
from funcrec.train import FitConfig, Run, ahead, fit, make_step
from funcrec.train.ahead import Ready
from tests.shard.processes import Ranks
from tests.shard.sharded import make_plan
from tests.train.tiny import ROWS, Rows, data, rows_of

RULE = rowwise.adagrad(0.1)
KINDS = {"a": "row_wise", "b": "table_wise"} | dict.fromkeys(("c", "a_wide", "b_wide", "c_wide"), "data_parallel")


def problem(mlp=None):
    ids = list(ROWS)
    config = models.DeepFMConfig(
        wide=Group.of("wide", ids, 1),
        deep=Group.of("deep", ids, 4, ["x"]),
        fm=Group.of("fm", ids, 4),
        deep_mlp=mlp or MLPConfig(hidden_units=(6, 4)),
    )
    m = models.deepfm(config)
    return m, spec_for(m.groups, ROWS, init=Normal(0.3), private=("wide",))


def batches_of(counts, size, weighted):
    """Batches of each rank: ``counts[r]`` of ``size`` rows and one of 2 rows."""
    return [
        [
            data(size if i < n else 2, seed=100 * r + i, weighted=weighted, dtype=torch.float32)
            for i in range(n + (n > 0))
        ]
        for r, n in enumerate(counts)
    ]


def train_over_ranks(rank, world, group, counts, weighted, micro, options, early=False, device="cpu"):
    m, spec = problem(options.pop("mlp", None))
    where = make_plan(spec, RULE, world, KINDS, 6, "cpu" if device == "cpu" else "H100")
    store = sharded_store(spec, RULE, where, group=group)
    step = make_step(m, store, optim.adam(0.01), bce, replicas=replicas(group, bucket_bytes=64), **options)
    ts, losses = step.init(key(0, device)), []
    own = batches_of(counts, 6, weighted)[rank]
    state, seen = metrics.auc().init(), 0
    batches = together(own, group)
    for given in ahead(batches, step, ts) if early else batches:
        parts, batch = given, given.batch if isinstance(given, Ready) else given
        if micro and batch is not None:
            parts = [rows_of(batch, 0, 2), rows_of(batch, 2, 99)] if len(batch) > 2 else [batch, None]
        elif micro:
            parts = [None, None]
        ts, info = step.train(ts, parts)
        losses.append(float(info["loss"]))
        if batch is not None:
            seen += len(batch)
            state = metrics.auc().update(state, torch.arange(len(batch)) / 10, batch.features["label"].cpu())
    merged = float(metrics.auc().compute(merge_states(metrics.auc(), state, group)))
    full = {n: gathered(x, group, device) for n, x in tensors_of(spec, RULE, ts.tables).items() if n.endswith("weight")}
    return losses, by_path(ts.params), full, by_path(ts.state), merged, seen


def by_path(t):
    return {n: x.clone() for n, x in zip(tree.paths(t), tree.leaves(t), strict=True)}


def gathered(x, group, device="cpu"):
    """The whole of a tensor, on every rank."""
    if not hasattr(x, "local_shards"):
        return x.clone()
    whole = torch.zeros(x.size(), device=device)
    for s in x.local_shards():
        at = tuple(slice(o, o + n) for o, n in zip(s.metadata.shard_offsets, s.metadata.shard_sizes, strict=True))
        whole[at] = s.tensor
    dist.all_reduce(whole, group=group)
    return whole


def train_alone(counts, weighted, options):
    m, spec = problem(options.pop("mlp", None))
    step = make_step(m, rowwise_store(spec, RULE), optim.adam(0.01), bce, **options)
    ts, losses, state, seen = step.init(key(0)), [], metrics.auc().init(), 0
    everybody = batches_of(counts, 6, weighted)
    for i in range(max(map(len, everybody))):
        parts = [own[i] for own in everybody if i < len(own)]
        ts, info = step.train(ts, concat(parts))
        losses.append(float(info["loss"]))
        for p in parts:
            seen += len(p)
            state = metrics.auc().update(state, torch.arange(len(p)) / 10, p.features["label"])
    named = {n: x.clone() for n, x in tensors_of(spec, RULE, ts.tables).items() if n.endswith("weight")}
    return losses, by_path(ts.params), named, float(metrics.auc().compute(state)), seen


CASES = [
    ((4,), 0, 0, 0),
    ((4, 4), 0, 0, 0),
    ((4, 2), 1, 0, 0),
    ((4, 2), 1, 0, 1),
    ((10, 7, 0), 0, 0, 0),
    ((10, 7, 0), 0, 0, 1),
    ((3, 2), 1, 1, 0),
]


@pytest.mark.parametrize(("counts", "weighted", "micro", "early"), CASES)
def test_steps_over_ranks_equal_steps_of_all_rows(ranks: Ranks, counts, weighted, micro, early) -> None:
    check_equal(counts, weighted, ranks.run(len(counts), train_over_ranks, counts, weighted, micro, {}, early))


def check_equal(counts, weighted, found, whole_loss=True) -> None:
    """``whole_loss``: each rank has that of all rows, not its share."""
    losses, dense, tables, auc, seen = train_alone(counts, weighted, {})
    assert sum(f[5] for f in found) == seen
    assert whole_loss or [sum(x) for x in zip(*(f[0] for f in found), strict=True)] == pytest.approx(losses, rel=2e-5)
    for f in found:
        assert not whole_loss or f[0] == pytest.approx(losses, rel=2e-5)
        assert f[1].keys() == dense.keys()
        for name, x in dense.items():
            torch.testing.assert_close(f[1][name], x, rtol=2e-4, atol=2e-5)
        assert f[2].keys() == tables.keys()
        for name, x in tables.items():
            torch.testing.assert_close(f[2][name], x, rtol=2e-4, atol=2e-5)
        assert f[4] == auc
    for f in found[1:]:
        assert all(torch.equal(found[0][1][n], f[1][n]) for n in dense)  # every rank has the very same weights


def test_compiled_steps_and_running_statistics(ranks: Ranks) -> None:
    """Batch statistics are each rank's own, as everywhere; the running ones are the same on all ranks."""
    mlp = MLPConfig(hidden_units=(6, 4), use_bn=True)
    eager = ranks.run(2, train_over_ranks, (2, 1), False, False, {"mlp": mlp})
    fast = ranks.run(
        2, train_over_ranks, (2, 1), False, False, {"mlp": mlp, "compile": True, "compile_rows": 6}, timeout=300
    )
    assert len(eager[0][3]) == 4
    for name, x in eager[0][3].items():
        torch.testing.assert_close(eager[1][3][name], x, rtol=0, atol=0)
    for a, b in zip(eager, fast, strict=True):
        assert a[0] == pytest.approx(b[0], rel=1e-4)
        for name, x in a[1].items():
            torch.testing.assert_close(b[1][name], x, rtol=1e-3, atol=1e-4)


def refused(rank, world, group):
    m, spec = problem()
    store = sharded_store(spec, RULE, make_plan(spec, RULE, world, KINDS, 6), group=group)
    with pytest.raises(ConfigError, match="make_step: processes"):
        make_step(m, store, optim.adam(0.01), bce)
    with pytest.raises(ConfigError, match="make_step: processes"):
        make_step(m, rowwise_store(spec, RULE), optim.adam(0.01), bce, replicas=replicas(group))
    step = make_step(m, store, optim.adam(0.01), bce, replicas=replicas(group), max_norm=1.0)
    with pytest.raises(ConfigError, match="norm of the gradient of sharded tables"):
        step.train(step.init(key(0)), data(4, seed=rank, dtype=torch.float32))
    with pytest.raises(ConfigError, match="fit: tables"):
        next(fit(Run(step.init(key(0))), step, Rows(data(4)), FitConfig(batch_size=2, epochs=1)))
    none = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(5, dtype=torch.int64))
    bag = Nested.from_lengths(none, torch.ones(4, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"\['a'\]: got a bag of ids a step"):
        store.lookup(store.init(key(0)), {**data(4).ids, "a": bag})
    with pytest.raises(ConfigError, match="ranks of the plan"):
        sharded_store(spec, RULE, make_plan(spec, RULE, 4, KINDS, 6), group=group)
    adam = rowwise.adam(0.1)
    with pytest.raises(ConfigError, match=r"rule: got 'adam'.*'rowwise_adagrad'\] on cpu"):
        sharded_store(spec, adam, make_plan(spec, adam, world, KINDS, 6), group=group).init(key(0))


def test_what_would_be_silently_wrong_is_refused(ranks: Ranks) -> None:
    ranks.run(2, refused)


def one_is_not_finite(rank, world, group):
    m, spec = problem()
    store = sharded_store(spec, RULE, make_plan(spec, RULE, world, KINDS, 6), group=group)
    step = make_step(m, store, optim.adam(0.01), bce, replicas=replicas(group))
    ts, good = step.init(key(0)), data(4, seed=rank, dtype=torch.float32)
    before = by_path(ts.params)
    bad = data(4, seed=rank, dtype=torch.float32)
    bad.features["dense"]["x"][0] = torch.nan if rank == 1 else 0.0
    match = r"first bad tensor: batch\.dense\.x" if rank == 1 else "step 0: the loss of another process is not finite"
    with pytest.raises(NonFiniteError, match=match):
        step.train(ts, bad)
    assert all(torch.equal(x, before[n]) for n, x in by_path(ts.params).items())
    return float(step.train(ts, good)[1]["loss"])


def test_a_loss_that_is_not_finite_ends_the_step_on_all_ranks(ranks: Ranks) -> None:
    first, second = ranks.run(2, one_is_not_finite)
    assert first == second
