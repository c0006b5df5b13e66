"""Steps of several processes: how long they take, and what the GPU does meanwhile."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Kinds of work on a GPU by words in the names of kernels; what has none of them is dense.
KINDS = {
    "exchange": ("nccl",),
    "update": ("backward_codegen", "split_embedding_backward", "linearize", "RadixSort"),
    "lookup": ("split_embedding", "bounds_check"),
    "copies": ("Memcpy HtoD",),
}
WORK = {"kernel", "gpu_memcpy", "gpu_memset"}  # of a trace's events: not the annotations, which span them


def side_by_side(sides: dict[str, Callable[[], Any]], turns: int, steps: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds a step of each side over its turns; a turn ends when the last process is done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, step in sides.items():
            for _ in range(2):
                step()
            wait()
            dist.barrier()
            start = time.perf_counter()
            for _ in range(steps):
                step()
            wait()
            dist.barrier()
            times[name].append((time.perf_counter() - start) / steps * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def traced(step: Callable[[], Any], path: Path | None, steps: int = 5) -> dict[str, float]:
    """Milliseconds of GPU work a step, by kind, on this process's GPU; ``path`` keeps the trace itself."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as p:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as held:
        file = path or Path(held) / "trace.json"
        p.export_chrome_trace(str(file))
        return by_kind(file, steps)


def by_kind(trace: Path, steps: int) -> dict[str, float]:
    """The same of a trace."""
    out = dict.fromkeys([*KINDS, "dense"], 0.0)
    for event in json.loads(trace.read_text())["traceEvents"]:
        if event.get("cat") in WORK:
            kind = next((k for k, words in KINDS.items() if any(w in event["name"] for w in words)), "dense")
            out[kind] += event["dur"] / 1e3 / steps
    return out
