"""Real processes for the tests of ``funcrec.shard``: a pool of gloo ranks that outlives a failing check.

    def doubled(rank, world, group, x):              # a function of a module, so that it can be found by name
        dist.all_reduce(x, group=group)
        return x

    def test_sum(ranks):
        assert ranks.run(2, doubled, torch.ones(1)) == [2.0, 2.0]

Importing torch takes seconds a process, so one pool serves a whole test session and every size of world: a call runs on
the first ``world`` processes, in a process group of just these. It rendezvouses through a file, never through a port.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist

GRACE = 10.0  # seconds for the other ranks to notice that one failed


class Failure(NamedTuple):
    """What went wrong on one rank, and when: the pickled exception, where it can be, and its traceback."""

    when: float
    pickled: bytes | None
    text: str


def _join(rank: int, world: int, file: str) -> None:
    """Leave the process group of the last call, enter that of this one."""
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("gloo", f"file://{file}", timedelta(seconds=300), world_size=world, rank=rank)


def _answer(rank: int, world: int, call: bytes) -> bytes:
    """The pickled result of a call, or a pickled Failure."""
    try:
        function, args = pickle.loads(call)
        return pickle.dumps(function(rank, world, dist.group.WORLD, *args))
    except BaseException as error:
        when, text = time.monotonic(), traceback.format_exc()
        try:
            failure = Failure(when, pickle.dumps(error), text)
        except Exception:
            failure = Failure(when, None, text)
        traceback.clear_frames(error.__traceback__)
    # A closed connection is what tells the others, which may wait for this rank in a collective.
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
    return pickle.dumps(failure)


def _serve(rank: int, calls: Connection) -> None:
    """The loop of one process, to the end of the pool or of the process that owns it."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name may not resolve
    joined = None
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            file, world, call = pickle.loads(calls.recv_bytes())
            if file != joined:
                _join(rank, world, file)
                joined = file
            calls.send_bytes(_answer(rank, world, call))
    if dist.is_initialized():
        dist.destroy_process_group()
    time.sleep(0.1)  # for gloo's threads to let go of their tensors: see funcrec.shard.launch


def _raise(failures: dict[int, Failure]) -> NoReturn:
    """Raise the error of the rank that failed first, with the tracebacks of all."""
    rank = min(failures, key=lambda r: failures[r].when)
    error: BaseException | None = None
    pickled = failures[rank].pickled
    if pickled is not None:
        with contextlib.suppress(Exception):  # an exception class of unusual arguments does not come back
            error = pickle.loads(pickled)
    error = error or RuntimeError(f"rank {rank} failed")
    for r, failure in failures.items():
        error.add_note(f"--- rank {r} ---\n{failure.text}")
    raise error


class Ranks:
    """A pool of processes, started as they are needed and closed at the end of the ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._groups = count()
        self._file, self._world = "", 0
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, world: int) -> None:
        if any(not p.is_alive() for p in self._processes):
            self.close(kill=True)
        context = multiprocessing.get_context("spawn")
        for rank in range(len(self._processes), world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, theirs), daemon=True, name=f"rank{rank}")
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            self._processes.append(process)
            self._pipes.append(ours)

    def close(self, kill: bool = False) -> None:
        """End all processes: at their leisure, or at once."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if not kill:
                process.join(5)
            if process.is_alive():
                process.kill()
            process.join()
            process.close()
        self._pipes, self._processes, self._world = [], [], 0

    def run(self, world: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
        """``function(rank, world, group, *args)`` on each of ``world`` ranks; the results in rank order.

        The group is also torch's default one. What a rank raises is raised here, with the tracebacks of all ranks as
        notes; the next call finds the pool in order, in a fresh process group.

        Raises:
            RuntimeError: a rank died.
            TimeoutError: some ranks gave no answer in time; they are killed.
        """
        self._start(world)
        if world != self._world:
            self._file, self._world = str(self.folder / f"group{next(self._groups)}-{os.getpid()}"), world
        call = pickle.dumps((self._file, world, pickle.dumps((function, args))))
        for ours in self._pipes[:world]:
            ours.send_bytes(call)

        results: dict[int, Any] = {}
        failures: dict[int, Failure] = {}
        pending: dict[Any, int] = {pipe: rank for rank, pipe in enumerate(self._pipes[:world])}
        end, dead = time.monotonic() + timeout, False
        while pending and (ready := wait(list(pending), max(0.0, end - time.monotonic()))):
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = pending.pop(pipe)
                try:
                    result = pickle.loads(pipe.recv_bytes())
                except (EOFError, ConnectionResetError):
                    self._processes[rank].join()
                    # Before all else: the others fail because this one is gone.
                    result, dead = Failure(0.0, None, f"died, exit code {self._processes[rank].exitcode}"), True
                if isinstance(result, Failure):
                    end = min(end, time.monotonic() + GRACE) if not failures else end
                    failures[rank] = result
                else:
                    results[rank] = result
        if pending:
            for rank in pending.values():
                failures[rank] = Failure(end, None, f"gave no answer within {timeout:g} s, or {GRACE:g} s of a failure")
        if failures:
            self._world = 0  # whatever was under way in this group, nobody uses it again
            if pending or dead:
                self.close(kill=True)
            if pending and len(failures) == len(pending):
                raise TimeoutError(f"ranks {sorted(failures)} gave no answer within {timeout:g} s")
            _raise(failures)
        return [results[rank] for rank in range(world)]


def run(world: int, function: Callable[..., Any], *args: Any, tmp_path: Path, timeout: float = 120.0) -> list[Any]:
    """One call in processes of its own, for a function that leaves something behind in them."""
    with Ranks(Path(tempfile.mkdtemp(dir=tmp_path))) as ranks:
        return ranks.run(world, function, *args, timeout=timeout)
