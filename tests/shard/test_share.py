"""Uneven data: shares add up to one, every batch comes once and in order, all ranks end together, nobody waits."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import DataError
from funcrec.shard.share import share, together


def shares(rank, world, group, rows):
    of_number, of_tensor = share(rows[rank], group), share(torch.tensor(rows[rank]), group)
    assert of_number.dtype == of_tensor.dtype == torch.float64
    assert of_number.shape == of_tensor.shape == ()
    assert torch.equal(of_number, of_tensor)
    return float(of_number)


@given(st.integers(1, 3), st.data())
def test_shares_are_parts_of_the_whole(ranks, world, data):
    rows = data.draw(st.lists(st.integers(0, 10**9), min_size=world, max_size=world))
    found = ranks.run(world, shares, rows)
    assert found == [r / sum(rows) if sum(rows) else 0.0 for r in rows]


@pytest.mark.parametrize("rows", [-1, float("nan"), float("inf")])
def test_rows_that_are_none_are_refused(rows):
    with pytest.raises(DataError, match="share: rows"):
        share(rows)


class Broken(Exception):
    pass


def source(rank, n, fails, log):
    try:
        for i in range(n):
            if i == fails:
                raise Broken(f"batch {i} of rank {rank}")
            log.append("read")
            yield rank, i
    finally:
        log.append("closed")


def read(rank, world, group, sizes, fails, plain):
    """What this rank saw, with a collective in every step; plain: from an iterator that cannot be closed."""
    log: list[str] = []
    seen, total = [], 0
    items = source(rank, sizes[rank], fails[rank], log)
    error = None
    try:
        for batch in together(list(items) if plain else items, group):
            x = torch.tensor([float(batch is not None)])
            dist.all_reduce(x, group=group)
            total += int(x)
            seen.append(batch)
            # one batch is read ahead, not more
            assert plain or log.count("read") <= sum(b is not None for b in seen) + 1
    except (Broken, DataError) as e:
        error = f"{type(e).__name__}: {e}"
    assert log[-1:] == ["closed"]
    x = torch.ones(1)  # the ranks are in step again
    dist.all_reduce(x, group=group)
    assert x.item() == world
    return seen, total, error


@given(st.integers(1, 3), st.booleans(), st.data())
def test_no_batch_is_lost_and_none_comes_twice(ranks, world, plain, data):
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=world, max_size=world))
    steps = max(sizes)
    for rank, (seen, total, error) in enumerate(ranks.run(world, read, sizes, [None] * world, plain, timeout=30)):
        assert seen == [(rank, i) if i < sizes[rank] else None for i in range(steps)]
        assert total == sum(sizes)
        assert error is None


@given(st.integers(2, 3), st.data())
def test_an_error_of_one_rank_is_everyones_at_the_same_step(ranks, world, data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=world, max_size=world))
    fails = [data.draw(st.none() | st.integers(0, n - 1)) for n in sizes]
    if all(f is None for f in fails):
        fails[-1] = 0
    when = min(f for f in fails if f is not None)
    first = fails.index(when)
    for rank, (seen, _, error) in enumerate(ranks.run(world, read, sizes, fails, False, timeout=30)):
        assert seen == [(rank, i) if i < sizes[rank] else None for i in range(when)]
        if fails[rank] == when:
            assert error == f"Broken: batch {when} of rank {rank}"
        else:
            assert error.startswith(f"DataError: the data of rank {first} could not be read")
            assert f"Broken: batch {when} of rank {first}" in error


def leave_early(rank, world, group):
    log: list[str] = []
    items = source(rank, 5, None, log)  # held, so that it is not closed for want of an owner
    for seen, _ in enumerate(together(items, group)):
        if seen == 2:
            break
    x = torch.ones(1)
    dist.all_reduce(x, group=group)
    assert x.item() == world
    return list(log)  # as it is now, with ``items`` alive


def test_leaving_together_before_the_end_closes_the_data(ranks):
    for log in ranks.run(2, leave_early):
        assert log == ["read"] * 4 + ["closed"]


def test_one_process_alone_has_its_batches_and_errors():
    assert list(together([1, 2, 3])) == [1, 2, 3]
    assert share(5) == 1.0
    with pytest.raises(Broken):
        list(together(source(0, 2, 1, [])))
