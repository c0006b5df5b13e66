"""The sharded training script under a real torchrun: the curve of one process, also after a rank was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from funcrec.core.random import key
from funcrec.data.synthetic import planted

SCRIPT = Path(__file__).parents[2] / "examples" / "train_sharded.py"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("planted")
    p = planted(key(1), 1500, valid_rows=301, test_rows=10)
    paths = p.write_csv(folder)
    (folder / "schema.json").write_text(p.schema.to_json())
    given = ["--data", "csv", "--schema", str(folder / "schema.json"), "--train-path", str(paths["train"])]
    given += ["--valid-path", str(paths["valid"]), "--epochs", "2", "--batch-size", "50", "--hidden", "16"]
    return [*given, "--tables", "rowwise_adagrad", "--compile", "False", "--no-progress"]


def command(ranks: int, arguments: list[str], out: Path, *more: str) -> list[str]:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [sys.executable, *run, str(SCRIPT), *arguments, "--out", str(out), *more]


def curve(out: Path) -> dict[int, float]:
    lines = (out / "losses.csv").read_text().splitlines()[1:]
    return {int(step): float(loss) for step, loss in (line.split(",") for line in lines)}


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks' processes in /proc")
def test_a_killed_rank_ends_the_job_and_fewer_ranks_go_on_where_it_was(arguments: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    alone = subprocess.run(
        command(1, arguments, whole), env=environment, capture_output=True, text=True, check=True, timeout=240
    )
    options = (*arguments, "--checkpoint-steps", "5")
    job = subprocess.Popen(
        command(4, list(options), cut, "--sharding", "table_wise"), env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    end = time.monotonic() + 240
    while not (cut / "checkpoints" / "step-00000010").exists():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(children(job.pid)[2], signal.SIGKILL)
    killed = time.monotonic()
    out, _ = job.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert job.returncode != 0
    assert "Signal 9 (SIGKILL)" in out

    more = subprocess.run(
        command(2, list(options), cut, "--sharding", "row_wise"),
        env=environment, capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    assert "resuming step-" in more.stdout
    got, wanted = curve(cut), curve(whole)
    assert got.keys() == wanted.keys()  # no committed step is lost, none is taken twice
    assert list(got.values()) == pytest.approx(list(wanted.values()), rel=1e-3)
    results = [json.loads(r.stdout.splitlines()[-1]) for r in (alone, more)]
    assert results[0]["valid"]["auc"] == pytest.approx(results[1]["valid"]["auc"], abs=1e-3)


def test_what_it_cannot_honour_and_another_run_are_refused(arguments: list[str], tmp_path: Path) -> None:
    def errors(*more: str) -> str:
        done = subprocess.run(
            command(1, [*arguments, "--epochs", "1"], tmp_path / "out", *more),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.stderr.splitlines()[-1] if done.returncode else ""

    assert "train_sharded: --l2: got 0.1, expected not given" in errors("--l2", "0.1")
    assert errors() == ""
    assert "holds another run: got {'dropout': (0.0, 0.3)}" in errors("--dropout", "0.3")
