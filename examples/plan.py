"""Where embedding tables would go on machines that need not be there, printed and drawn.

python examples/plan.py --topology 128xH200 --tables 4000 --parameters 1e12 --picture plan.png
python examples/plan.py --topology 4xH200 --batch 16384 --like dlrm
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from funcrec.embedding import Table
from funcrec.shard import Constraint, parse_topology, plan
from funcrec.shard.costs import KINDS

Rule = Literal["sgd", "rowwise_adagrad", "adagrad", "adam", "partial_rowwise_adam", "lamb", "lars_sgd"]


@dataclass(frozen=True)
class Options:
    """Plan tables that are drawn at random, a few huge and many small, or those of a benchmark."""

    topology: str = "128xH200"
    """Machines: 128xH200 (hosts of 8), 16x4xH100, 2xcpu."""
    like: Literal["random", "dlrm"] = "random"
    """dlrm: 26 tables of a million rows and dim 128."""
    tables: int = 4000
    """How many random tables."""
    parameters: float = 1e12
    """Of all random tables together, about."""
    batch: int = 512
    """Rows on each rank in a step."""
    rule: Rule = "rowwise_adagrad"
    """The optimizer of the tables."""
    reserve: float = 0.15
    """Share of each rank's memory to keep free."""
    dense_bytes: float = 0.0
    """Bytes of each rank that are not tables."""
    dense_time: float = 0.0
    """Seconds of a step's device work that is not tables."""
    every_sharding: bool = False
    """Allow column shards with any rule, though some rules are then others."""
    inter: float | None = None
    """Bytes a second between hosts, each way and rank; None: that of the topology."""
    seed: int = 0
    """Of the random tables."""
    picture: Path | None = None
    """Draw the plan into this file."""


def drawn(options: Options) -> list[Table]:
    """Tables with rows spread over decades, scaled so that all together have the parameters asked for."""
    draw = random.Random(options.seed)
    shapes = [(10 ** draw.uniform(0, 5), draw.choice((64, 128, 256))) for _ in range(options.tables)]
    # Half of all parameters in six tables or fewer: what makes sharding hard.
    huge = min(6, options.tables)
    total = sum(rows * dim for rows, dim in shapes[huge:]) or 1.0
    made = []
    for i, (rows, dim) in enumerate(shapes):
        share = 0.5 / huge / dim if i < huge else 0.5 * rows / total
        rows = max(1, math.ceil(share * options.parameters))
        made.append(Table(name=f"huge{i}" if i < huge else f"table{i}", rows=rows, dim=dim))
    return made


def main(options: Options) -> None:
    machines = parse_topology(options.topology, **({} if options.inter is None else {"inter": options.inter}))
    if options.like == "dlrm":
        tables = [Table(name=f"t{i}", rows=1_000_000, dim=128) for i in range(26)]
    else:
        tables = drawn(options)
    start = time.perf_counter()
    made = plan(
        tables,
        machines,
        batch=options.batch,
        rule=options.rule,
        default=Constraint(sharding=KINDS) if options.every_sharding else None,
        reserve=options.reserve,
        dense_bytes=options.dense_bytes,
        dense_time=options.dense_time,
    )
    seconds = time.perf_counter() - start
    print(made)
    print(f"\nplanned in {seconds:.1f} s")
    if options.picture is not None:
        made.picture(options.picture)
        print(f"drawn in {options.picture}")


if __name__ == "__main__":
    main(tyro.cli(Options))
