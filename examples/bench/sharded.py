"""DLRM train steps on one GPU and on several, ours beside torchrec's own pipeline in one run.

torchrun --standalone --nproc-per-node 2 examples/bench/sharded.py [--batches 65536 16384] [--out results.json]

26 tables x 1M x 128, bottom MLP 512-256-128, top 1024-1024-512-256-1, one id a field, row-wise Adagrad on the tables,
Adam on the rest, tf32 allowed. Both sides begin with the same weights and read the same batches from pinned memory;
their losses of the first steps, and the tables after these, must agree: there is no ratio over a wrong answer. The
tables lie where our planner puts them, for both.

The split of a step is GPU time by kind of kernel, on rank 0: lookup and update (FBGEMM), exchange (NCCL; among kernels
that wait for the other rank too), copies from the host, dense (the rest). Work on several streams overlaps.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import split
import torch
from dlrm_ours import LR, Ours, Sizes, make_model, make_pool, same_answers, weights_of
from dlrm_torchrec import set_weights, theirs

from funcrec.core.init import Uniform
from funcrec.embedding import spec_for
from funcrec.optim import rowwise
from funcrec.shard import Constraint, launched, plan
from funcrec.shard.costs import TIMES
from funcrec.shard.launch import RankInfo

WORDS = {"compiled", "graph", "bf16", "ahead"}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batches", type=int, nargs="+", default=[65536, 16384], help="rows of all ranks together")
    p.add_argument("--candidates", nargs="+", default=["compiled+graph+ahead"], help="words of ours, joined by +")
    p.add_argument("--small", action="store_true", help="8 tables of 1000 rows x 16: to try it on a CPU")
    p.add_argument("--device", choices=("cpu", "cuda"))
    p.add_argument("--turns", type=int, default=7, help="of each side, in alternation")
    p.add_argument("--steps", type=int, default=20, help="in a turn")
    p.add_argument("--exact", action="store_true", help="without tf32, where both sides must agree more closely")
    p.add_argument("--trace", type=Path, help="write a trace of each side here")
    p.add_argument("--out", type=Path, help="results as JSON, those of each number of ranks in one file")
    o = p.parse_args()
    odd = [c for c in o.candidates if not set(c.split("+")) <= WORDS | {"eager"}]
    if odd:
        p.error(f"candidates {odd}: expected words of {sorted(WORDS)}, joined by +")
    return o


def main(o: argparse.Namespace, ranks: RankInfo) -> None:
    torch.backends.cuda.matmul.allow_tf32 = not o.exact
    sizes = Sizes(8, 1000, 16, 13, (32, 16), (64, 32)) if o.small else Sizes()
    cuda = ranks.device.type == "cuda"
    on = f"{ranks.world} x {machine.name('cuda' if cuda else 'cpu')}"
    ranks.say(on)
    model = make_model(sizes)
    spec = spec_for(model.groups, dict.fromkeys(sizes.names, sizes.rows), init=Uniform(-1e-3, 1e-3))
    rule = rowwise.rowwise_adagrad(LR[0], eps=1e-8)
    batches: dict[str, Any] = {}
    for rows in o.batches:
        local = rows // ranks.world
        topology = f"{ranks.world}x{'H100' if cuda else 'cpu'}"
        where = plan(spec, topology, batch=local, rule=rule, default=Constraint(sharding=("table_wise",)))
        pool = make_pool(sizes, local, ranks.rank, cuda)
        their = theirs(where, sizes, pool, LR, ranks.device, ranks.group)
        sides: dict[str, Callable[[], Any]] = {"torchrec": their.step}
        made: dict[str, Ours] = {}
        for c in o.candidates:
            made[c] = Ours(c, sizes, model, spec, where, ranks)
            made[c].feed(pool)
            if c == o.candidates[0]:
                set_weights(their, made[c].state.params, weights_of(made[c], rule))
                same_answers(made[c], their, ranks, rule, o.exact)
            sides[c] = made[c].step
        ms = split.side_by_side(sides, o.turns, o.steps, ranks.device)
        splits = {}
        for name, step in sides.items():
            splits[name] = split.traced(step, o.trace and o.trace / f"{name}-{rows}-{ranks.rank}.json") if cuda else {}
        lookup, exchange, update = where.load[:, TIMES].max(0) * 1e3
        planned = {"lookup": lookup, "exchange": exchange, "update": update, "host": where.host_time * 1e3}
        batches[str(rows)] = {"ms": ms, "split": splits, "planned": planned}
        ranks.say("planner's estimate: " + ", ".join(f"{k} {v:.2f} ms" for k, v in planned.items()))
        for name, t in ms.items():
            line = f"{rows:6d} rows {name:24s} {t:7.2f} ms {rows / t / 1e3:6.2f} M rows/s  {ms['torchrec'] / t:5.2f}x"
            ranks.say(line + "  " + ", ".join(f"{k} {v:.2f}" for k, v in splits[name].items()))
        del sides, made, their
        if cuda:
            torch.cuda.empty_cache()
    if o.out and ranks.main:
        o.out.parent.mkdir(parents=True, exist_ok=True)
        held = json.loads(o.out.read_text()) if o.out.exists() else {}
        command = shlex.join(["torchrun", "--standalone", "--nproc-per-node", str(ranks.world), *sys.argv])
        held[str(ranks.world)] = {"command": command, "machine": on, "batches": batches}
        o.out.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    options = arguments()
    with launched(device=options.device) as info:
        main(options, info)
