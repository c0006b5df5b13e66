"""What every benchmark shares: the machine it ran on, its ceilings measured in the same run, and honest timing."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def name() -> str:
    """Processor, threads and versions on one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, {load}"


def median_ms(f: Callable[[], object], *, warmup: int = 3, repeats: int = 20) -> float:
    """Median wall time of a call in milliseconds."""
    return side_by_side({"": f}, warmup=warmup, repeats=repeats)[""]


def side_by_side(
    candidates: dict[str, Callable[[], object]], *, warmup: int = 3, repeats: int = 20
) -> dict[str, float]:
    """Median wall time in milliseconds of each candidate, their calls taking turns: a noisy neighbour hits them all."""
    for f in candidates.values():
        for _ in range(warmup):
            f()
    times: dict[str, list[float]] = {label: [] for label in candidates}
    for _ in range(repeats):
        for label, f in candidates.items():
            start = time.perf_counter()
            f()
            times[label].append((time.perf_counter() - start) * 1e3)
    return {label: statistics.median(t) for label, t in times.items()}


def ceilings() -> dict[str, float]:
    """What this machine can do right now: matrix products in GFLOP/s, copies (read + write) in GB/s."""
    n, out = 2048, {}
    for label, dtype in (("matmul_fp32_gflops", torch.float32), ("matmul_bf16_gflops", torch.bfloat16)):
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        out[label] = 2 * n**3 / median_ms(lambda a=a, b=b: a @ b, repeats=7) / 1e6
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    out["copy_gbs"] = 2 * source.numel() * 4 / median_ms(lambda: target.copy_(source), repeats=7) / 1e6
    return out
