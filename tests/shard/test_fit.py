"""``fit`` over ranks is ``fit`` of one process: its story, its best weights, its checkpoints, whoever reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec import metrics, optim
from funcrec.core.errors import CheckpointError, ConfigError, NonFiniteError
from funcrec.core.random import key
from funcrec.core.replicas import Replicas, alone
from funcrec.embedding import rowwise_store
from funcrec.losses import bce
from funcrec.shard import keeper, replicas, sharded_store
from funcrec.shard.checkpoint import tensors_of
from funcrec.shard.merge import gather
from funcrec.shard.replicated import replicated_store
from funcrec.train import FitConfig, Run, Step, TrainState, best_of, checkpoint, fit, make_step, part_of
from tests.shard.processes import Ranks
from tests.shard.sharded import make_plan
from tests.shard.test_training import KINDS, RULE, by_path, problem
from tests.train.tiny import Rows, data, rows_of

TRAIN = Rows(data(50, 1, dtype=torch.float32))
VALID = Rows(rows_of(TRAIN.batch, 5, 46))  # learnt by heart, until it is spoiled
METRICS = {"auc": metrics.auc(), "logloss": metrics.log_loss()}
MODEL, SPEC = problem()
# The last global batch has one row, so that one rank has none; training and validation alike.
CONFIG = FitConfig(batch_size=7, epochs=9, patience=2, reduce=0.5, accumulate=2, eval_batch_size=10)
# Rates that spoil what was learnt: the best epoch is not the last one.
RATE = optim.adam(lambda k: 0.02 if k < 13 else 0.4)


def make(how: str, world: int, group: Any, **options: Any) -> tuple[Step, Replicas]:
    """A step and its replicas: of a local store, of copies of one, or of tables that are sharded ``how``."""
    others = (
        alone()._replace(keeper=keeper(SPEC, RULE))
        if how == "local"
        else replicas(group, bucket_bytes=64, keeper=keeper(SPEC, RULE, group))
    )
    store = rowwise_store(SPEC, RULE)
    if how == "copied":
        store = replicated_store(store, group)
    elif how != "local":
        kinds = {t: kind if kind == "data_parallel" else how for t, kind in KINDS.items()}
        store = sharded_store(SPEC, RULE, make_plan(SPEC, RULE, world, kinds, 7), group=group)
    return make_step(MODEL, store, RATE, bce, replicas=others, **options), others


def whole(ts: TrainState, group: Any) -> dict[str, torch.Tensor]:
    """All that a state holds, on every rank."""
    blocks: dict[str, list] = {}
    for name, x in tensors_of(SPEC, RULE, ts.tables).items():
        shards = x.local_shards() if hasattr(x, "local_shards") else ()
        own = [(s.metadata.shard_offsets, s.tensor) for s in shards]
        blocks[name] = own if hasattr(x, "local_shards") else [([0] * x.dim(), x)]
    named: dict[str, torch.Tensor] = {}
    for everybodys in gather(blocks, group):
        for name, parts in everybodys.items():
            for at, part in parts:
                size = [o + n for o, n in zip(at, part.shape, strict=True)]
                held = named.get(name, torch.zeros([0] * part.dim()))
                grown = torch.zeros([max(a, b) for a, b in zip(size, held.shape, strict=True)])
                grown[tuple(map(slice, held.shape))] = held
                grown[tuple(slice(o, n) for o, n in zip(at, size, strict=True))] = part
                named[name] = grown
    return named | by_path(ts.params)


def go(rank, world, group, how, start=None, stop=None, root=None, options=None):
    """Run ``fit`` from a checkpoint, or from the beginning, to its end, or to ``stop`` reports and a checkpoint."""
    torch.manual_seed(rank)  # of which nothing here may depend
    step, others = make(how, world, group, **(options or {}))
    run, story = Run(step.init(key(0))), []
    if start is not None:
        run, _ = checkpoint.load(checkpoint.latest(start), {"x": 1}, into=Run(step.init(key(9))), replicas=others)
    parts = part_of(TRAIN, others), part_of(VALID, others)
    config = replace(CONFIG, ahead=3 if others.world > 1 else 0)  # which changes nothing
    for r in fit(run, step, parts[0], config, valid=parts[1], metrics=METRICS):
        run = r.run
        story.append(others.total([float(r.loss)])[0] if isinstance(r.loss, torch.Tensor) else r.loss)
        if len(story) == stop:
            checkpoint.save(root, run, {"x": 1}, replicas=others, beside=lambda d: (d / "words").write_text("a b"))
            return story
    assert run.best is not None
    last = whole(run.train, group)
    return story, run.history, run.best["epoch"], run.scale, last, whole(best_of(run), group)


def same(found: Any, wanted: Any, start: int = 0) -> None:
    assert found[0] == pytest.approx(wanted[0][start:], rel=1e-4)
    assert [set(row) for row in found[1]] == [set(row) for row in wanted[1]]
    for a, b in zip(found[1], wanted[1], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert found[2:4] == wanted[2:4]
    for a, b in zip(found[4:], wanted[4:], strict=True):
        assert a.keys() == b.keys()
        for name, x in b.items():
            torch.testing.assert_close(a[name], x, rtol=2e-3, atol=2e-4)


@pytest.fixture(scope="module")
def alone_story():
    found = go(0, 1, None, "local")
    assert found[2] + 1 < len(found[1]) < CONFIG.epochs  # it stopped early, and the best epoch is not the last
    assert any(not torch.equal(x, found[5][name]) for name, x in found[4].items())
    return found


STORIES = [(2, "row_wise", True), (2, "table_wise", False), (2, "copied", False), (1, "row_wise", True)]


@pytest.mark.parametrize(("world", "how", "check"), STORIES)
def test_the_story_of_fit_is_that_of_one_process(ranks: Ranks, alone_story, world, how, check) -> None:
    """Losses, merged metrics, when it slows down and stops, last and best weights; whether losses are read or not."""
    found = ranks.run(world, go, how, None, None, None, {"check_finite": check})
    for f in found:
        same(f, alone_story)
    for f in found[1:]:
        assert f[:4] == found[0][:4]  # the very same decisions


FIRST_EPOCH, BEHIND_THE_BEST = 2, 17  # reports
MOVES = [
    ((2, "row_wise"), (2, "table_wise"), BEHIND_THE_BEST, True),
    ((2, "table_wise"), (1, "local"), BEHIND_THE_BEST, False),
    ((1, "local"), (2, "row_wise"), BEHIND_THE_BEST, True),
    ((1, "row_wise"), (2, "copied"), FIRST_EPOCH, False),
    ((2, "copied"), (2, "row_wise"), FIRST_EPOCH, False),
]


@pytest.mark.parametrize(("first", "then", "stop", "check"), MOVES)
def test_a_run_goes_on_in_any_other_processes(ranks, alone_story, tmp_path, first, then, stop, check) -> None:
    """Cut in the midst of the first epoch and of one behind the best; best weights, counts and history included."""
    options = {"check_finite": check}

    def run(where, *arguments):
        world, how = where
        return [go(0, 1, None, how, *arguments)] if how == "local" else ranks.run(world, go, how, *arguments)

    begun = run(first, None, stop, tmp_path, options)
    assert begun[0] == pytest.approx(alone_story[0][:stop], rel=1e-4)
    (path,) = tmp_path.iterdir()
    assert "words" in json.loads((path / "meta.json").read_text())["files"]
    for f in run(then, tmp_path, None, None, options):
        same(f, alone_story, stop)


def faults(rank, world, group, root):
    step, others = make("row_wise", world, group)
    run = Run(step.init(key(0)))
    path = checkpoint.save(root, run, {}, replicas=others)
    assert others.keeper is not None
    without = others._replace(keeper=None)
    with pytest.raises(ConfigError, match="fit: tables"):
        next(fit(run, step._replace(replicas=without), TRAIN, CONFIG))
    with pytest.raises(ConfigError, match="checkpoint: tables"):
        checkpoint.save(root, run, {}, replicas=without)
    with pytest.raises(CheckpointError, match="tables in many processes"):
        checkpoint.load(path, into=run, replicas=without)

    def breaks(folder):
        raise OSError("disk is full")

    later = run._replace(train=run.train._replace(step=torch.tensor(1)))
    with pytest.raises(OSError if rank == 0 else CheckpointError, match="disk is full"):
        checkpoint.save(root, later, {}, replicas=others, beside=breaks)
    parts = next(iter(others.keeper.memory(run.train.tables).values())) if rank == 1 else torch.zeros(1)
    parts[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"step 1: got tables\."):  # on the rank that is fine, too
        checkpoint.save(root, later, {}, replicas=others)
    others.gathered(None)
    file = sorted((path / "tables").glob("*.distcp"))[-1]
    if rank == 0:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    others.gathered(None)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(path, {}, into=run, replicas=others)


def test_what_fails_on_one_rank_is_raised_on_all_and_leaves_the_last_checkpoint(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(2, faults, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000000"]


@given(n=st.integers(0, 30), size=st.integers(1, 12), world=st.integers(1, 5))
def test_parts_of_a_batch_are_its_rows_in_order_dealt_evenly(n, size, world) -> None:
    rows = Rows(data(n, dtype=torch.float32))
    parts = [list(part_of(rows, alone()._replace(rank=r, world=world)).batches(size)) for r in range(world)]
    for i, batch in enumerate(rows.batches(size)):
        own = [p[i] for p in parts]
        lengths = [0 if b is None else len(b) for b in own]
        assert max(lengths) - min(lengths) <= 1
        labels = torch.cat([b.features["label"] for b in own if b is not None])
        assert torch.equal(labels, batch.features["label"])
    assert {len(p) for p in parts} == {-(-n // size)}
