"""Scripts under a real torchrun: a world that works, a rank that fails, a rank that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from funcrec.core.errors import ConfigError
from funcrec.shard.launch import launched

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, signal, sys, time
import torch, torch.distributed as dist
from funcrec.shard.launch import launched

with launched(device="cpu", timeout=300) as ranks:
    x = torch.tensor([ranks.rank + 1.0])
    dist.all_reduce(x, group=ranks.group)
    ranks.say(f"sum {x.item()} main {ranks.main}\\nof {ranks.world}", everywhere=True)
    ranks.say(f"only rank {ranks.rank}")
    dist.barrier()
    if ranks.rank == 1:
        sys.stdout.write(f"begin {time.time()}\\n")
        {trouble}
    {wait}
sys.stdout.write("left\\n")
"""


def torchrun(tmp_path: Path, trouble: str, wait: str = "dist.all_reduce(x)") -> tuple[int, str, float]:
    """Exit code, output, and the seconds from the trouble to the end of the whole job."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{trouble}", trouble).replace("{wait}", wait))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    end = time.time()
    begin = [float(line.split()[-1]) for line in done.stdout.splitlines() if "begin" in line]
    assert begin, done.stdout
    return done.returncode, done.stdout, end - begin[0]


def test_a_world_of_two(tmp_path):
    code, out, _ = torchrun(tmp_path, "pass")
    assert code == 0, out
    lines = out.splitlines()
    assert {"sum 3.0 main True", "of 2", "[rank 1] sum 3.0 main False", "[rank 1] of 2"} <= set(lines)
    assert [line for line in lines if "only rank" in line] == ["only rank 0"]
    assert lines.count("left") == 2


def test_a_rank_that_raises_ends_the_job_with_its_message(tmp_path):
    """The other one waits for it in a collective, which fails too, and is not to be blamed."""
    code, out, seconds = torchrun(tmp_path, 'raise KeyError("column c7 is missing")')
    assert code != 0
    assert seconds < 30, out
    assert "[rank 1] KeyError: 'column c7 is missing'" in out
    assert '[rank 1]   File "' in out
    assert "left" not in out
    summary = out[out.index("Root Cause") :]  # torchrun's own
    assert "rank      : 1" in summary
    assert "KeyError: 'column c7 is missing'" in summary


def test_a_rank_that_is_killed_ends_the_job(tmp_path):
    """The other one does not notice by itself."""
    code, out, seconds = torchrun(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)")
    assert code != 0
    assert seconds < 30, out
    summary = out[out.index("Root Cause") :]
    assert "rank      : 1" in summary
    assert "SIGKILL" in summary
    assert "left" not in out


def test_one_process_needs_no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with launched(device="cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.local_rank, ranks.main) == (0, 1, 0, True)
        dist.all_reduce(x := torch.ones(2), group=ranks.group)
        assert x.tolist() == [1.0, 1.0]
        with pytest.raises(ConfigError, match="there already"), launched(device="cpu"):
            pass
        assert dist.is_initialized()
    assert not dist.is_initialized()


def test_one_process_raises_as_usual(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(KeyError, match="mine"), launched(device="cpu"):
        raise KeyError("mine")
    assert not dist.is_initialized()


def test_refusals(monkeypatch):
    with pytest.raises(ConfigError, match="device: got 'tpu'"), launched(device="tpu"):
        pass
    with pytest.raises(ConfigError, match="timeout: got 0"), launched(timeout=0):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="got 0 GPUs; use device='cpu'"), launched(device="cuda"):
            pass
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ConfigError, match="RANK: got 'one'"), launched(device="cpu"):
        pass
    assert not dist.is_initialized()
