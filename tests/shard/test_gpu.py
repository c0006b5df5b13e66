"""The sharded store and the steps over ranks on GPUs: as on CPUs, over NCCL, captured too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from funcrec.shard import launched
from tests.shard.sharded import compare
from tests.shard.test_store import KINDS, other_optimizer
from tests.shard.test_training import check_equal, train_over_ranks

ROOT = Path(__file__).parents[2]
RULES = ("sgd", "adagrad", "rowwise_adagrad", "adam", "partial_rowwise_adam", "decaying")
STEPS: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"check_finite": False}, True),
    ({"check_finite": False, "cuda_graph": True}, True),
    ({"compile": True}, True),
    ({"compile": True, "cuda_graph": True, "compile_rows": 6}, True),
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_gpus() -> None:
    n = min(torch.cuda.device_count(), 2)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "-m", __name__]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def main() -> None:
    failed: list[Any] = []
    with launched() as ranks:
        who = (ranks.rank, ranks.world, ranks.group)
        for kind in KINDS if ranks.world > 1 else ("table_wise", "row_wise", "data_parallel"):
            for rule in RULES:
                if other_optimizer(kind, rule) or (kind, rule) == ("column_wise", "partial_rowwise_adam"):
                    continue
                for histories, single in ((True, False), (False, True)):
                    kinds, sizes = dict.fromkeys("abc", kind), (4,) * ranks.world
                    worst = compare(*who, kinds, rule, histories, sizes, False, 1, torch.float32, single, 5, "cuda")
                    bad = {n: e for n, e in worst.items() if e > (1e-5 if n.startswith("emb") else 1e-4)}
                    ranks.say(f"{kind} {rule} {max(worst.values()):.1e}")
                    failed += [(kind, rule, histories, single, bad)] if bad else []
        for options, early in STEPS:
            counts = (4, 2)[: ranks.world]
            found = train_over_ranks(*who, counts, 0, 0, dict(options), early, "cuda")
            ranks.say(f"steps {options} {early}")
            on_cpu = lambda named: {n: x.cpu() for n, x in named.items()}  # noqa: E731
            mine = (found[0], on_cpu(found[1]), on_cpu(found[2]), *found[3:])
            everybody: list[Any] = [None] * ranks.world
            dist.all_gather_object(everybody, mine)
            try:
                check_equal(counts, 0, everybody, options.get("check_finite", True))
            except AssertionError as e:
                failed.append((options, early, str(e)[:500]))
    if failed:
        sys.exit("\n".join(map(str, failed)))


if __name__ == "__main__":
    main()
