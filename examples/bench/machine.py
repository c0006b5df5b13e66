"""What every benchmark shares: the machine it ran on, its ceilings measured in the same run, and honest timing."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def name(device: str = "cpu") -> str:
    """Processor, or GPU, threads and versions on one line."""
    if device != "cpu":
        try:
            triton = version("triton")
        except PackageNotFoundError:
            triton = "absent"
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, {load}"


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize()


def median_ms(f: Callable[[], object], *, warmup: int = 3, repeats: int = 20, device: str = "cpu") -> float:
    """Median wall time of a call in milliseconds."""
    return side_by_side({"": f}, warmup=warmup, repeats=repeats, device=device)[""]


def side_by_side(
    candidates: dict[str, Callable[[], object]],
    *,
    warmup: int = 3,
    repeats: int = 20,
    device: str = "cpu",
    calls: int | None = None,
) -> dict[str, float]:
    """Median wall time in milliseconds of each candidate, their calls taking turns: a noisy neighbour hits them all.

    A turn is so many ``calls`` between two waits for the device; by default one on a CPU and ten on a GPU, where the
    host runs ahead as it does in training.
    """
    calls = calls or (1 if device == "cpu" else 10)
    for f in candidates.values():
        for _ in range(warmup):
            f()
    times: dict[str, list[float]] = {label: [] for label in candidates}
    for _ in range(repeats):
        for label, f in candidates.items():
            wait(device)
            start = time.perf_counter()
            for _ in range(calls):
                f()
            wait(device)
            times[label].append((time.perf_counter() - start) * 1e3 / calls)
    return {label: statistics.median(t) for label, t in times.items()}


def ceilings(device: str = "cpu") -> dict[str, float]:
    """What this machine can do right now: matrix products in GFLOP/s, copies (read + write) in GB/s.

    On a GPU float32 means whatever ``torch.backends.cuda.matmul.allow_tf32`` says.
    """
    n, out = 2048 if device == "cpu" else 8192, {}
    for label, dtype in (("matmul_fp32_gflops", torch.float32), ("matmul_bf16_gflops", torch.bfloat16)):
        a, b = torch.randn(n, n, device=device).to(dtype), torch.randn(n, n, device=device).to(dtype)
        out[label] = 2 * n**3 / median_ms(lambda a=a, b=b: a @ b, repeats=7, device=device) / 1e6
    source = torch.randn(1 << (26 if device == "cpu" else 29), device=device)
    target = torch.empty_like(source)
    out["copy_gbs"] = 2 * source.numel() * 4 / median_ms(lambda: target.copy_(source), repeats=7, device=device) / 1e6
    return out
