"""One script for one process and for many: ``python train.py``, or ``torchrun --nproc-per-node 4 train.py``.

    with launched() as ranks:
        ranks.say(f"training on {ranks.world} x {ranks.device}")
        train(device=ranks.device, group=ranks.group, progress=ranks.main)

A rank that fails says so, with its number and traceback, and ends at once; ``torchrun`` then ends the others.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple, NoReturn, TextIO

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from funcrec.core.errors import ConfigError, fail

PATIENCE = 5.0  # seconds that a rank which lost a connection leaves to the one that broke it


class RankInfo(NamedTuple):
    """Who this process is among those of the job."""

    rank: int
    world: int
    local_rank: int
    """Its number on this machine."""
    device: torch.device
    group: dist.ProcessGroup
    """All ranks: gloo for CPU tensors and, where there are GPUs, NCCL for CUDA tensors."""

    @property
    def main(self) -> bool:
        """Whether this is the rank that reports: progress, logs, files."""
        return self.rank == 0

    def say(self, message: object, *, everywhere: bool = False) -> None:
        """Print on rank 0; with ``everywhere`` on the others too, each line behind the rank's number."""
        if self.main or everywhere:
            prefix = "" if self.main else f"[rank {self.rank}] "
            _write(sys.stdout, prefix, str(message))


def _write(stream: TextIO, prefix: str, text: str) -> None:
    """All lines in one write: those of several ranks, which share a terminal, do not get mixed."""
    stream.write("".join(f"{prefix}{line}\n" for line in text.splitlines()))
    stream.flush()


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        fail(ConfigError, f"launched: environment variable {name}", got=repr(value), expected="a number")
    return int(value)


def _device(local_rank: int, device: str | None) -> torch.device:
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        fail(ConfigError, "launched: device", got=repr(device), expected="'cpu', 'cuda' or None")
    if kind == "cpu":
        return torch.device("cpu")
    if local_rank >= (n := torch.cuda.device_count()):
        fix = f"launch {n} processes on this machine, or use device='cpu'" if n else "use device='cpu'"
        fail(ConfigError, f"launched: a GPU for local rank {local_rank}", got=f"{n} GPUs", fix=fix)
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _lost_connection(error: BaseException) -> bool:
    """Whether a collective failed, as it does on every rank when one of them is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _end(rank: int, error: BaseException) -> NoReturn:
    """Report an error and end this process now.

    Nothing is torn down: a destructor could wait for other ranks, which wait for this one.
    """
    code = error.code if isinstance(error, SystemExit) else 130 if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(error, Exception):
        if _lost_connection(error):
            # Most likely another rank failed. It should be the one to be blamed, and torchrun ends this one meanwhile.
            time.sleep(PATIENCE)
        get_error_handler().record_exception(error)  # what torchrun's summary shows
        text = "".join(traceback.format_exception(error))
        _write(sys.stderr, f"[rank {rank}] ", text)
    elif not isinstance(code, int):  # sys.exit("why")
        _write(sys.stderr, f"[rank {rank}] ", str(code))
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 1)


@contextlib.contextmanager
def launched(*, device: str | None = None, timeout: float = 600.0) -> Iterator[RankInfo]:
    """Join the process group of ``torchrun``, or be a world of one process; leave it at the end of the block.

    The device is the GPU of the local rank where there are GPUs, else the CPU. An exception in the block ends a process
    of a larger world at once, by ``os._exit``, so that the others do not wait for it: its traceback is printed with
    its rank and handed to torchrun's summary, which names the rank that failed first. Ranks that lose a connection
    keep silent for some seconds, until torchrun has ended them. One process alone raises as usual.

    Args:
        device: "cpu" or "cuda"; None: whichever there is.
        timeout: seconds after which a collective that some rank does not join fails. It must be longer than the
            longest wait of one rank for another: an evaluation or a checkpoint on rank 0 alone.

    Raises:
        ConfigError: more processes than GPUs on this machine, or a process group that is there already.
    """
    if dist.is_initialized():
        fail(ConfigError, "launched", got="a process group that is there already", expected="none", fix="call it once")
    if not timeout > 0:
        fail(ConfigError, "launched: timeout", got=timeout, expected="a positive number of seconds")
    rank, world, local_rank = _number("RANK", 0), _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0)
    alone = world == 1
    try:
        get_error_handler().initialize()
        place = _device(local_rank, device)
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        limit = timedelta(seconds=timeout)
        if alone:  # no port, no file: the rendezvous of one process is with itself
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
        else:
            dist.init_process_group(backend, timeout=limit)
        assert dist.group.WORLD is not None
        yield RankInfo(rank, world, local_rank, place, dist.group.WORLD)
    except BaseException as error:
        if not alone and not (isinstance(error, SystemExit) and not error.code):
            _end(rank, error)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        if not alone:
            # A gloo thread may be waiting for the interpreter's lock, to let go of the tensor of its last collective.
            # It joins them only if nobody holds the group any more, and a thread that gets its lock while the
            # interpreter shuts down aborts the process.
            time.sleep(0.1)
