"""Train over many processes: ``torchrun --standalone --nproc-per-node 2 examples/train_sharded.py --tables adagrad``.

This is ``train.py`` with another store: its options, its loop, its results. ``--batch-size`` is of all ranks together,
so that any number of them takes the same steps. Without ``torchrun`` it is one process. Started again with the same
``--out``, on as many ranks as you like, it goes on from the last checkpoint.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass
from typing import Literal

import experiment
import job
import train
import tyro
from build import build_model
from options import Options

from funcrec.core.errors import ConfigError, FuncrecError, fail
from funcrec.core.model import Model
from funcrec.core.replicas import Keeper
from funcrec.embedding import Store
from funcrec.shard import Constraint, keeper, launched, plan, replicas, replicated_store, sharded_store
from funcrec.shard.fused import check_rule
from funcrec.shard.launch import RankInfo
from funcrec.train import Step


@dataclass(frozen=True)
class ShardedOptions(Options):
    sharding: Literal["auto", "table_wise", "row_wise", "column_wise", "data_parallel", "replicated"] = "auto"
    """How the tables are dealt to the ranks; auto: as the planner finds best. replicated: a copy of ``train.py``'s own
    store on each, which also takes every rule, --tables dense, --l2, --max-norm and fp16; auto takes it for those."""
    ahead: int = 3
    """Batches whose ids travel to other ranks while earlier ones are trained on."""
    show_plan: bool = False
    """Print the plan and draw it into --out."""


def needs_copies(o: Options, ranks: RankInfo) -> str | None:
    """The option that sharded tables cannot honour, if there is one."""
    if o.tables == "dense":
        return "--tables dense"
    if o.max_norm is not None:
        return f"--max-norm {o.max_norm}"
    if o.precision == "fp16":
        return "--precision fp16"
    try:
        check_rule(experiment.rule_of(o), ranks.device)
    except ConfigError:
        return f"--tables {o.tables} on {ranks.device.type}"
    return None


def store_of(o: ShardedOptions, model: Model, data: experiment.Data, ranks: RankInfo) -> tuple[Store, Keeper | None]:
    """The store over all ranks, and the keeper of its tables where they are sharded."""
    why = needs_copies(o, ranks)
    if o.sharding == "replicated" or (o.sharding == "auto" and why):
        ranks.say("every rank has a copy of all tables" + (f", for {why}" if why else ""))
        return replicated_store(experiment.local_store(o, model, data.fields), ranks.group), None
    if why:
        expected, fix = "an option that sharded tables honour", "leave it out, or take --sharding replicated"
        fail(ConfigError, f"train_sharded: --sharding {o.sharding}", got=why, expected=expected, fix=fix)
    experiment.check_penalty(o)
    spec, rule = experiment.spec_of(o, model, data.fields), experiment.rule_of(o)
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
        o.out.mkdir(parents=True, exist_ok=True)
        where.picture(o.out / "plan.png")
    return sharded_store(spec, rule, where, group=ranks.group), keeper(spec, rule, ranks.group)


def job_of(ranks: RankInfo) -> job.Job:
    def build(o: Options, data: experiment.Data) -> Step:
        assert isinstance(o, ShardedOptions)
        model = build_model(o, data.fields)
        store, kept_by = store_of(o, model, data, ranks)
        return experiment.step_of(o, model, store, replicas(ranks.group, keeper=kept_by))

    return job.Job(build, ranks.main, ranks.device, goes_on=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*is_fx_tracing.*")
    options = tyro.cli(ShardedOptions, description=__doc__)
    try:
        with launched(device=None if options.device == "auto" else options.device) as info:
            result = train.main(options, job_of(info))
            if info.main:
                print(json.dumps(result))
    except FuncrecError as error:
        sys.exit(f"error: {error}")
