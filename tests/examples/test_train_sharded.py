"""The sharded training script under a real torchrun: the curve of one process, also after a rank was killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import tyro

from funcrec.core.errors import CheckpointError, ConfigError
from funcrec.core.random import key
from funcrec.data.synthetic import planted
from funcrec.shard import launched

SCRIPT = Path(__file__).parents[2] / "examples" / "train_sharded.py"
sys.path.insert(0, str(SCRIPT.parent))
import train  # noqa: E402
import train_sharded  # noqa: E402
from options import Options  # noqa: E402

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("planted")
    p = planted(key(1), 1500, valid_rows=301, test_rows=10)
    paths = p.write_csv(folder)
    (folder / "schema.json").write_text(p.schema.to_json())
    given = ["--data", "csv", "--schema", str(folder / "schema.json"), "--train-path", str(paths["train"])]
    given += ["--valid-path", str(paths["valid"]), "--epochs", "2", "--batch-size", "50", "--hidden", "16"]
    return [*given, "--compile", "False", "--no-progress", "--no-tensorboard"]


def here(arguments: list[str], out: Path, *more: str) -> dict[str, Any]:
    """What ``train.py`` returns for these arguments, in this process."""
    return train.main(tyro.cli(Options, args=[*arguments, "--out", str(out), *more]))


def launch(ranks: int, arguments: list[str], out: Path, *more: str) -> tuple[dict[str, Any], str]:
    """The results of ``train_sharded.py`` on so many ranks, and what it printed."""
    done = subprocess.run(
        command(ranks, arguments, out, *more), env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


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
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = [*arguments, "--tables", "rowwise_adagrad"]
    alone = here(arguments, whole)
    options = (*arguments, "--checkpoint-steps", "5")
    job = subprocess.Popen(
        command(4, list(options), cut, "--sharding", "table_wise"), env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    end = time.monotonic() + 240
    while not any((cut / "checkpoints").glob("step-000000[1-9]*")):
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(children(job.pid)[2], signal.SIGKILL)
    killed = time.monotonic()
    out, _ = job.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert job.returncode != 0
    assert "Signal 9 (SIGKILL)" in out

    more, printed = launch(2, list(options), cut, "--sharding", "row_wise")
    assert "resuming at epoch" in printed
    same_story(cut, whole)
    assert more["valid"] == pytest.approx(alone["valid"], abs=1e-3)
    again = train.main(Options(evaluate=cut, valid_path=(Path(arguments[arguments.index("--valid-path") + 1]),)))
    assert again["valid"] == pytest.approx(more["valid"], rel=1e-6)  # one process reads what ranks wrote


def same_story(out: Path, wanted: Path) -> None:
    """The same losses of the same steps, and the same predictions of the same rows in the same order."""
    losses, others = curve(out), curve(wanted)
    assert losses.keys() == others.keys()  # no committed step is lost, none is taken twice
    assert list(losses.values()) == pytest.approx(list(others.values()), rel=1e-3)
    rows, other_rows = predictions(out), predictions(wanted)
    assert [r[:2] for r in rows] == [r[:2] for r in other_rows]
    assert [float(r[2]) for r in rows] == pytest.approx([float(r[2]) for r in other_rows], abs=1e-3)


def predictions(out: Path) -> list[list[str]]:
    with (out / "predictions.csv").open() as f:
        return list(csv.reader(f))[1:]


def test_whole_tables_train_on_ranks_as_on_one_process(arguments: list[str], tmp_path: Path) -> None:
    """L2, the norm of everything, accumulation, a rate that is reduced: all options of ``train.py``."""
    options = [*arguments, "--tables", "dense", "--l2", "0.05", "--max-norm", "0.2", "--learning-rate", "0.05"]
    options += ["--accumulate", "2", "--patience", "2", "--reduce", "0.1", "--epochs", "4"]
    alone = here(options, tmp_path / "one")
    found, printed = launch(2, options, tmp_path / "two")
    assert "every rank has a copy of all tables, for --tables dense" in printed
    assert found["ranks"] == 2
    assert found["epochs"] == alone["epochs"]
    for split in ("train", "valid"):
        assert found[split] == pytest.approx(alone[split], abs=1e-4)
    same_story(tmp_path / "two", tmp_path / "one")


def test_what_it_cannot_honour_and_another_run_are_refused(arguments: list[str], tmp_path: Path) -> None:
    def run(*more: str) -> dict[str, Any]:
        given = [*arguments, "--epochs", "1", "--out", str(tmp_path / "out"), *more]
        with warnings.catch_warnings(), launched() as ranks:
            warnings.simplefilter("ignore")  # of torchrec
            return train.main(tyro.cli(train_sharded.ShardedOptions, args=given), train_sharded.job_of(ranks))

    with pytest.raises(ConfigError, match=r"--sharding row_wise: got --max-norm 1.0, .* take --sharding replicated"):
        run("--tables", "adagrad", "--max-norm", "1", "--sharding", "row_wise")
    with pytest.raises(ConfigError, match=r"--sharding row_wise: got --tables lamb on cpu"):
        run("--tables", "lamb", "--sharding", "row_wise")
    with pytest.raises(ConfigError, match=r"--l2: got 0.1 with --tables adagrad"):
        run("--tables", "adagrad", "--l2", "0.1")
    first = run("--tables", "adagrad")
    assert run("--tables", "adagrad")["valid"] == first["valid"]  # nothing left to train
    with pytest.raises(CheckpointError, match=r"another config.*options.dropout: 0.0 -> 0.3"):
        run("--tables", "adagrad", "--dropout", "0.3")
