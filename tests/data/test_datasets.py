"""Datasets: the same rows from memory and as a stream, an order that the key alone decides, exact resuming."""

import ast
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core import random
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, DataError
from funcrec.data import (
    Csv,
    InMemory,
    Source,
    Stream,
)
from tests.data.small import SCHEMA, N, data_threads, lines, rows_of


def passed(batches: Iterator[Batch]) -> list[list[tuple]]:
    return [rows_of(b) for b in batches]


@settings(max_examples=20)
@given(st.integers(1, 50), st.integers(1, 130), st.integers(0, 2), st.none() | st.integers(0, 99), st.booleans())
def test_a_stream_gives_the_rows_of_memory_once_each(source, memory, size, window, workers, seed, drop) -> None:
    stream = Stream(schema=SCHEMA, source=source, window=window, workers=workers)
    key = None if seed is None else random.key(seed)
    got = passed(stream.batches(size, key=key, drop_last=drop))
    whole = rows_of(memory.rows)
    flat = list(itertools.chain(*got))
    assert [len(b) for b in got] == [len(b) for b in passed(memory.batches(size, key=key, drop_last=drop))]
    if key is None:
        assert flat == whole[: len(flat)]
    else:
        assert not Counter(flat) - Counter(whole)
        assert drop or Counter(flat) == Counter(whole)


@settings(max_examples=8)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 1), st.none() | st.integers(0, 99), st.booleans())
def test_a_pass_resumed_anywhere_is_the_tail_of_the_whole(source, memory, size, window, workers, seed, drop) -> None:
    key = None if seed is None else random.key(seed)
    for data in (memory, Stream(schema=SCHEMA, source=source, window=window, workers=workers)):
        whole = passed(data.batches(size, key=key, drop_last=drop))
        for start in {0, 1, len(whole) // 2, len(whole)} & set(range(len(whole) + 1)):
            assert passed(data.batches(size, key=key, start=start, drop_last=drop)) == whole[start:]
        with pytest.raises(ConfigError, match=f"start: got {len(whole) + 1}, expected at most {len(whole)}"):
            list(data.batches(size, key=key, start=len(whole) + 1, drop_last=drop))


@settings(max_examples=10)
@given(st.integers(1, 120), st.integers(0, 2))
def test_the_key_decides_the_order_and_the_workers_do_not(source, window: int, workers: int) -> None:
    ordered = Stream(schema=SCHEMA, source=source, window=window, workers=0)
    threaded = Stream(schema=SCHEMA, source=source, window=window, workers=workers)
    first = passed(ordered.batches(10, key=random.key(1)))
    assert passed(threaded.batches(10, key=random.key(1))) == first
    assert passed(ordered.batches(10, key=random.key(2))) != first


def test_each_window_has_an_order_of_its_own(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["y,u,bag,x,t", *lines()]) + "\n")
    stream = Stream(schema=SCHEMA, source=Source(paths=(str(tmp_path),)), window=30)
    windows = [[row[0] for row in rows] for rows in passed(stream.batches(30, key=random.key(0)))]
    assert [sorted(w) for w in windows] == [list(range(i, min(i + 30, N))) for i in range(0, N, 30)]
    orders = [[u % 30 for u in w] for w in windows[:3]]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_new_process_gives_the_same_batches(source, memory) -> None:
    script = (
        "import sys; from funcrec.core import random; from funcrec.data import *\n"
        "schema, source = Schema.from_json(sys.argv[2]), Source(paths=(sys.argv[1],), format=Csv(block_bytes=500))\n"
        "for data in Stream(schema=schema, source=source, window=30), load(schema, source, Vocabularies()):\n"
        "    print([b.ids['u'].tolist() for b in data.batches(7, key=random.key(5), start=2)])\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, source.paths[0], SCHEMA.to_json()]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    stream = Stream(schema=SCHEMA, source=source, window=30)
    here = [passed(s.batches(7, key=random.key(5), start=2)) for s in (stream, memory)]
    assert [ast.literal_eval(line) for line in done.stdout.splitlines()] == [
        [[row[0] for row in batch] for batch in batches] for batches in here
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_consumer_that_stops_early_leaves_no_thread(source, workers: int) -> None:
    stream = Stream(schema=SCHEMA, source=source, window=20, workers=workers)
    batches = stream.batches(5)
    next(batches)
    assert data_threads() > 0
    batches.close()  # type: ignore[attr-defined]
    assert data_threads() == 0
    for _ in stream.batches(5):
        break
    assert data_threads() == 0
    list(stream.batches(5))
    assert data_threads() == 0


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_readers_error_reaches_the_consumer(tmp_path, memory, workers: int) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["y,u,bag,x,t", *lines(), "1,1,,x,1"]) + "\n")
    layout = Csv(block_bytes=500)
    stream = Stream(schema=SCHEMA, source=Source(paths=(str(tmp_path),), format=layout), window=10, workers=workers)
    batches = stream.batches(10)
    seen: list[Batch] = []
    with pytest.raises(DataError, match=f"a.csv line {N + 2}: column 'x': got 'x'") as caught:
        seen.extend(batches)
    # While the error and its traceback are still held.
    assert caught.value is not None
    assert data_threads() == 0
    rows = [row for batch in seen for row in rows_of(batch)]
    assert rows == rows_of(memory.rows)[: len(rows)]
    assert N - 20 < len(rows) < N


def test_chunks_are_no_longer_than_the_window(source) -> None:
    stream = Stream(schema=SCHEMA, source=source, window=3, workers=0)
    assert max(len(b) for b in stream._encoded(None)) == 3


def test_splits_by_position_and_by_time(memory) -> None:
    head, tail = memory.split_tail(0.2)
    assert len(tail) == round(N * 0.2)
    assert rows_of(head.rows) + rows_of(tail.rows) == rows_of(memory.rows)
    early, late = memory.split_time(0.3)
    assert early.rows.features["time"].max() < late.rows.features["time"].min()
    assert Counter(rows_of(early.rows) + rows_of(late.rows)) == Counter(rows_of(memory.rows))
    assert len(late) >= round(N * 0.3)
    boundary = late.rows.features["time"].min()
    assert int((late.rows.features["time"] > boundary).sum()) < round(N * 0.3)
    for fraction in (0.0, 1.0, 0.001):
        with pytest.raises(ConfigError, match="split: fraction"):
            memory.split_tail(fraction)
    with pytest.raises(DataError, match="no row before the split"):
        memory.select(torch.zeros(5, dtype=torch.int64)).split_time(0.5)
    untimed = InMemory(rows=Batch(memory.rows.ids, memory.rows.features.exclude("time")), fields=memory.fields)
    with pytest.raises(DataError, match=r"set Schema\.time"):
        untimed.split_time(0.5)


@pytest.mark.parametrize(("size", "start"), [(0, 0), (5, -1)])
def test_passes_that_mean_nothing_are_refused(source, memory, size: int, start: int) -> None:
    for data in (memory, Stream(schema=SCHEMA, source=source)):
        with pytest.raises(ConfigError, match="batches: "):
            data.batches(size, start=start)
    with pytest.raises(ConfigError, match="window"):
        Stream(schema=SCHEMA, source=source, window=0)
    with pytest.raises(ConfigError, match="workers"):
        Stream(schema=SCHEMA, source=source, workers=-1)
