"""Work done ahead of the consumer in threads, in order, with errors passed on and nothing left behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_END = object()


def prefetch(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, produced by one thread that runs at most ``depth`` of them ahead.

    An error of the producer is raised at the place of its item. When the consumer stops early the producer finishes the
    item at hand, then its generator is closed and the thread ends.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="funcrec-data")
    pending = deque(pool.submit(next, items, _END) for _ in range(depth))
    try:
        while (item := pending.popleft().result()) is not _END:
            pending.append(pool.submit(next, items, _END))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # Only now: a generator that another thread is running cannot be closed.
        if isinstance(items, Generator):
            items.close()


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R]:
    """``map(function, items)`` with ``workers`` threads, in the order of the items, at most 2 * workers ahead."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="funcrec-data")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
