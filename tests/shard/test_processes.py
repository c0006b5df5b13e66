"""The harness itself: results in rank order, errors with their ranks, a pool that a failing check does not spoil."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.shard.processes import Ranks


def summed(rank: int, world: int, group: dist.ProcessGroup, x: torch.Tensor) -> tuple[int, torch.Tensor, int]:
    x = x * (rank + 1)
    dist.all_reduce(x, group=group)
    return rank, x, dist.get_world_size()


def wrong(rank: int, world: int, group: dist.ProcessGroup, odd: int) -> None:
    if rank == odd:
        raise KeyError("the odd one")
    dist.all_reduce(torch.ones(3), group=group)


def killed(rank: int, world: int, group: dist.ProcessGroup) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier(group=group)


def asleep(rank: int, world: int, group: dist.ProcessGroup) -> None:
    if rank == 0:
        time.sleep(600)


def check(ranks: Ranks, world: int) -> None:
    results = ranks.run(world, summed, torch.ones(2, dtype=torch.float64))
    assert [(r, x.tolist(), w) for r, x, w in results] == [
        (r, [world * (world + 1) / 2] * 2, world) for r in range(world)
    ]


def test_worlds_of_every_size_share_the_pool(ranks):
    for world in (2, 1, 3, 2):
        check(ranks, world)


@pytest.mark.parametrize("odd", [0, 1])
def test_an_error_of_a_rank_is_raised_with_its_traceback_and_spoils_nothing(ranks, odd):
    check(ranks, 2)
    start = time.monotonic()
    with pytest.raises(KeyError, match="the odd one") as caught:
        ranks.run(2, wrong, odd)
    assert time.monotonic() - start < 5
    notes = "\n".join(caught.value.__notes__)
    assert f"--- rank {odd} ---" in notes
    assert 'raise KeyError("the odd one")' in notes
    check(ranks, 2)


def test_a_rank_that_dies_or_hangs_ends_the_call_and_the_pool_starts_again(tmp_path):
    with Ranks(tmp_path) as pool:
        with pytest.raises(RuntimeError, match="rank 1 failed") as caught:
            pool.run(2, killed)
        assert "exit code -9" in "\n".join(caught.value.__notes__)
        check(pool, 2)
        with pytest.raises(TimeoutError, match=r"ranks \[0\]"):
            pool.run(2, asleep, timeout=1)
