"""Train over many processes: ``torchrun --standalone --nproc-per-node 2 examples/train_sharded.py --tables adagrad``.

The options are those of ``train.py``; ``--batch-size`` is of all ranks together, so that any number of them takes the
same steps. Without ``torchrun`` it is one process. Started again with the same ``--out``, on as many ranks as you like,
it goes on from the last whole checkpoint. There is no early stopping here, and no TensorBoard.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import experiment
import torch
import tyro
from build import build_model
from options import Options, completed
from report import LossFile
from torch import Tensor
from tqdm import tqdm

from funcrec import metrics, optim
from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, FuncrecError, fail
from funcrec.core.random import fold_in, key
from funcrec.data.rows import cut
from funcrec.embedding import EmbeddingSpec
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.optim.rowwise import RowRule
from funcrec.shard import Constraint, launched, merge_states, plan, replicas, sharded_store
from funcrec.shard.checkpoint import as_named, last_whole, load, save, tensors_of
from funcrec.shard.launch import RankInfo
from funcrec.train import Step, TrainState, make_step
from funcrec.train.fit import Dataset, probabilities

METRICS = {"auc": metrics.auc(), "logloss": metrics.log_loss()}


@dataclass(frozen=True)
class ShardedOptions(Options):
    sharding: Literal["auto", "table_wise", "row_wise", "data_parallel"] = "auto"
    """Of all tables; auto: what the planner finds best."""
    show_plan: bool = False
    """Print the plan and draw it into --out."""


def settings(given: ShardedOptions, ranks: RankInfo) -> ShardedOptions:
    """The data set's settings for what was not given, less those that sharded tables or this loop do not know.

    Raises:
        ConfigError: one of these was asked for.
    """
    o: Any = completed(given)
    unknown = {"l2": 0.0, "max_norm": None, "patience": None, "reduce": 1.0, "evaluate": None, "accumulate": 1}
    for name, off in unknown.items():
        if getattr(given, name) not in (None, off):
            what = f"train_sharded: --{name.replace('_', '-')}"
            fail(
                ConfigError, what, got=getattr(given, name), expected="not given", fix="train.py has it, on one process"
            )
    if o.tables in ("dense", None) or o.precision == "fp16":
        seen = f"--tables {o.tables}, --precision {o.precision}"
        fix = "give --tables sgd, adagrad or rowwise_adagrad, and fp32 or bf16"
        fail(ConfigError, "train_sharded", got=seen, expected="a rule for rows, no loss scale", fix=fix)
    dropped = {name: getattr(o, name) for name, off in unknown.items() if getattr(o, name) not in (None, off)}
    if dropped:
        ranks.say(f"without these settings of {o.data}, which sharded tables or this loop lack: {dropped}")
    return replace(o, **unknown)


def check_same_run(o: ShardedOptions, data: experiment.Data, ranks: RankInfo, resuming: bool) -> None:
    """Raise where the checkpoints at ``--out`` are of another model, data or settings; else note what they are of."""
    about = experiment.describe(o, data)
    about["options"] = {k: v for k, v in about["options"].items() if k not in ("sharding", "show_plan")}
    about, path = json.loads(json.dumps(about)), o.out / "about.json"
    if resuming and (held := json.loads(path.read_text())) != about:
        old, new = held["options"], about["options"]
        odd = {k: (old.get(k), new.get(k)) for k in old | new if old.get(k) != new.get(k)}
        fail(ConfigError, f"{o.out} holds another run", got=odd or "other data", fix="choose another --out")
    if ranks.main and not resuming:
        path.write_text(json.dumps(about, indent=1))


def build(o: ShardedOptions, data: experiment.Data, ranks: RankInfo) -> tuple[Step, RowRule]:
    model = build_model(o, data.fields)
    spec = experiment.spec_of(o, model, data.fields)
    rule = getattr(rowwise, str(o.tables))(o.table_learning_rate or o.learning_rate)
    own = Constraint() if o.sharding == "auto" else Constraint(sharding=(o.sharding,))
    # FBGEMM has no columns but by fours: narrow tables, those of wide parts say, are copied to all ranks.
    narrow = {t.name: Constraint(sharding=("data_parallel",)) for t in spec.tables if t.dim % 4}
    where = plan(
        spec,
        f"{ranks.world}x{'H100' if ranks.device.type == 'cuda' else 'cpu'}",
        batch=-(-int(o.batch_size or 1) // ranks.world),
        rule=rule,
        constraints=narrow,
        default=own,
    )
    if o.show_plan and ranks.main:
        print(where)
        where.picture(o.out / "plan.png")
    store = sharded_store(spec, rule, where, group=ranks.group)
    distilled = o.model == "rocket_launching" and o.booster
    step = make_step(
        model,
        store,
        getattr(optim, o.optimizer)(o.learning_rate),
        None if distilled else bce,
        objective=experiment.distillation(o, model) if distilled else None,
        precision=o.precision,
        compile=bool(o.compile),
        replicas=replicas(ranks.group),
    )
    return step, rule


def mine(batch: Batch, ranks: RankInfo) -> Batch:
    """This rank's rows of a global batch: neighbours, as many as the others' up to one."""
    n = len(batch)
    return cut(batch, n * ranks.rank // ranks.world, n * (ranks.rank + 1) // ranks.world)


def named(spec: EmbeddingSpec, rule: RowRule, ts: TrainState, position: Tensor) -> dict[str, Any]:
    """All that a run is, by name: what a checkpoint holds."""
    dense = {"params": ts.params, "state": ts.state, "optimizer": ts.optimizer, "step": ts.step, "position": position}
    return {n: x for k, v in dense.items() for n, x in as_named(k, v).items()} | tensors_of(spec, rule, ts.tables)


def evaluate(step: Step, ts: TrainState, data: Dataset, ranks: RankInfo) -> dict[str, float]:
    """The metrics over all ranks' rows, each row counted once."""
    states = {name: m.init() for name, m in METRICS.items()}
    for batch in data.batches(16384):
        part = mine(batch, ranks)
        p, f = probabilities(step.predict(ts, part)), part.features.to(ranks.device)
        states = {n: m.update(states[n], p, f["label"], f.get("weight", None)) for n, m in METRICS.items()}
    return {n: float(m.compute(merge_states(m, states[n], ranks.group))) for n, m in METRICS.items()}


def main(given: ShardedOptions, ranks: RankInfo) -> dict[str, Any]:
    o: Any = settings(given, ranks)
    data = experiment.read(o)
    o = experiment.with_batch_size(o, data)
    o.out.mkdir(parents=True, exist_ok=True)
    step, rule = build(o, data, ranks)
    ts, position = step.init(key(o.seed, ranks.device)), torch.zeros(2, dtype=torch.int64)  # epoch, batch
    checkpoints = o.out / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    last = last_whole(checkpoints)
    check_same_run(o, data, ranks, resuming=last is not None)
    if last is not None:
        load(last, named(step.store.spec, rule, ts, position), ranks.group)
        ranks.say(f"resuming {last.name} on {ranks.world} ranks, at epoch {int(position[0]) + 1}, batch {position[1]}")

    def commit(epoch: int, batch: int) -> None:
        position.copy_(torch.tensor([epoch, batch]))
        path = checkpoints / f"step-{int(ts.step):08d}"
        if not path.exists():
            save(path, named(step.store.spec, rule, ts, position), ranks.group)

    started, seen, history = time.perf_counter(), 0, []
    with (
        LossFile(o.out / "losses.csv", int(ts.step)) if ranks.main else nullcontext() as losses,
        tqdm(unit=" rows", unit_scale=True, disable=not (ranks.main and o.progress), mininterval=0.5) as bar,
    ):
        for epoch in range(int(position[0]), int(o.epochs or 1)):
            first = int(position[1])
            for at, batch in enumerate(epoch_of(data.splits["train"], o, ts, epoch, first), first + 1):
                part = mine(batch, ranks)
                ts, info = step.train(ts, part if len(part) else None)
                if losses is not None:
                    losses.add(int(ts.step), info["loss"])
                seen += len(batch)
                bar.update(len(batch))
                if o.checkpoint_steps and int(ts.step) % o.checkpoint_steps == 0:
                    commit(epoch, at)
            commit(epoch + 1, 0)
            if (valid := data.splits.get("valid")) is not None:
                history.append(evaluate(step, ts, valid, ranks))
                ranks.say(f"epoch {epoch + 1}: " + ", ".join(f"{n} {v:.6f}" for n, v in history[-1].items()))
    best = max(history, key=lambda h: h["auc"], default={})
    rate = round(seen / max(time.perf_counter() - started, 1e-9))
    size = tree.count(ts.params) + step.store.spec.parameters
    return {"model": o.model, "ranks": ranks.world, "parameters": size, "rows_per_second": rate, "valid": best}


def epoch_of(data: Dataset, o: Any, ts: TrainState, epoch: int, start: int) -> Iterator[Batch]:
    """The global batches of an epoch, in the order of ``fit``."""
    shuffle = fold_in(fold_in(ts.key, "shuffle"), epoch)
    return data.batches(o.batch_size, key=shuffle, start=start)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*is_fx_tracing.*")
    options = tyro.cli(ShardedOptions, description=__doc__)
    try:
        with launched(device=None if options.device == "auto" else options.device) as info:
            result = main(options, info)
            if info.main:
                print(json.dumps(result))
    except FuncrecError as error:
        sys.exit(f"error: {error}")
