"""Rows cut, selected, put together and regrouped; threads that work ahead, and only so far."""

import itertools
import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.batch import Batch
from funcrec.core.rows import concat, cut, regroup, select
from funcrec.data.prefetch import ordered_map, prefetch
from tests.data.small import N, data_threads, rows_of


@given(st.data(), st.integers(0, N), st.integers(0, N))
def test_cut_select_and_concat_agree(memory, data, start: int, stop: int) -> None:
    start, stop = min(start, stop), max(start, stop)
    whole = rows_of(memory.rows)
    assert rows_of(cut(memory.rows, start, stop)) == whole[start:stop]
    index = data.draw(st.lists(st.integers(0, N - 1), max_size=20))
    assert rows_of(select(memory.rows, torch.tensor(index, dtype=torch.int64))) == [whole[i] for i in index]
    parts = [cut(memory.rows, 0, start), cut(memory.rows, start, N)]
    assert rows_of(concat(parts)) == whole


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 40))
def test_regrouping_keeps_the_order_and_holds_less_than_one_group(memory, sizes: list[int], size: int) -> None:
    starts = [0, *itertools.accumulate(sizes)]
    produced, given_back = 0, 0

    def pieces() -> Iterator[Batch]:
        nonlocal produced
        for n, start in zip(sizes, starts, strict=False):
            assert produced - given_back < size
            produced += n
            yield select(memory.rows, torch.arange(start, start + n) % N)

    out = []
    for batch in regroup(pieces(), size):
        given_back += len(batch)
        out.append(batch)
    assert all(len(b) == size for b in out[:-1])
    whole = rows_of(memory.rows)
    assert [row for b in out for row in rows_of(b)] == [whole[i % N] for i in range(sum(sizes))]


def test_threads_run_ahead_only_so_far() -> None:
    started = 0

    def numbers() -> Iterator[int]:
        nonlocal started
        for i in range(50):
            started += 1
            yield i

    for i, item in enumerate(prefetch(numbers(), 3)):
        time.sleep(0.001)
        assert item == i
        assert started <= i + 1 + 3
    started = 0
    for i, item in enumerate(ordered_map(lambda x: -x, numbers(), 2)):
        assert item == -i
        assert started <= i + 1 + 4
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda x: 1 // (x - 7), numbers(), 2))
    assert data_threads() == 0
