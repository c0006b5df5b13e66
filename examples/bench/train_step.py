"""Whole training steps of all eleven models, on CPU or on a GPU, in float32 and under bfloat16 autocast.

python examples/bench/train_step.py [--models dlrm deepfm dcn_v2] [--device cuda] [--out results.json]

26 tables x 100k rows x 16, 13 dense features, batch 4096, one id a field, row-wise Adagrad on the tables, Adam on the
rest; the models' sizes are in ``cases.py``. Every candidate takes three steps first and must move all weights as the
plain eager step does: there is no ratio over a wrong answer.

A candidate is a name such as ``auto+compiled+graph+bf16``: the layers' implementation (``eager`` for the reference's),
then what is done with the step. On a GPU no candidate reads the loss on the host, tf32 is allowed, and "peak" is the
memory of state and first steps, compilation and capture included.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from cases import CASES, batch_of
from torch import Tensor

from funcrec import optim
from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.random import key
from funcrec.embedding import rowwise_store
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.train import Step, TrainState, make_step

# Milliseconds of TorchEasyRec 1.3.16 (torchrec on gloo) at these sizes on two cores of another run: for orientation.
RECORDED_MS = {"dlrm": 82.0, "deepfm": 158.0, "dcn_v2": 123.0, "wukong": 215.0, "masknet": 511.0, "xdeepfm": 1840.0}
CANDIDATES = {
    "cpu": ("eager", "eager+compiled", "eager+compiled+bf16"),
    "cuda": (
        "eager",
        "auto",
        "eager+compiled",
        "auto+compiled",
        "eager+compiled+graph",
        "auto+compiled+graph",
        "auto+compiled+graph+bf16",
    ),
}
WORDS = {"eager", "auto", "triton", "compiled", "graph", "bf16"}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES), metavar="MODEL")
    p.add_argument("--candidates", nargs="+", help="default: " + str(CANDIDATES))
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--rows", type=int, default=100_000, help="of every table")
    p.add_argument("--batch", type=int, default=4096)
    p.add_argument("--repeats", type=int, default=15)
    p.add_argument("--out", type=Path, help="also write the results as JSON here")
    o = p.parse_args()
    o.candidates = o.candidates or CANDIDATES[o.device]
    odd = [c for c in o.candidates if not set(c.split("+")) <= WORDS]
    if odd:
        p.error(f"candidates {odd}: expected words of {sorted(WORDS)}, joined by +")
    return o


def make(name: str, candidate: str, o: argparse.Namespace) -> Step:
    case, words = CASES[name], candidate.split("+")
    impl = next((w for w in words if w in ("auto", "triton")), "reference")
    model, compiled = case.model(impl), "compiled" in words
    store = rowwise_store(case.spec(model, o.rows), rowwise.rowwise_adagrad(0.01), compile=compiled)
    return make_step(
        model,
        store,
        optim.adam(1e-3),
        bce if case.objective is None else None,
        objective=case.objective and case.objective(model),
        precision="bf16" if "bf16" in words else "fp32",
        compile=compiled,
        check_finite=o.device == "cpu",
        cuda_graph="graph" in words,
    )


def weights(ts: TrainState) -> dict[str, Tensor]:
    dense = dict(zip(tree.paths(ts.params), tree.leaves(ts.params), strict=True))
    return dense | {f"tables.{name}": w for name, w in ts.tables["weights"].items()}


def first_steps(step: Step, batch: Batch, device: str) -> tuple[dict[str, Tensor], float]:
    """By how much three steps move every weight, and the peak memory in MiB (0 on a CPU)."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device != "cpu" else 0
    ts = step.init(key(1, device))
    start = {n: x.clone() for n, x in weights(ts).items()} if device == "cpu" else None
    for _ in range(3):
        ts, _ = step.train(ts, batch)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if device != "cpu" else 0.0
    start = start or weights(step.init(key(1, device)))
    return {n: x - start[n] for n, x in weights(ts).items()}, peak


def check(moved: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every weight must have moved by the same amount, up to ``tolerance``; Adam makes whole steps of small noise."""
    for name, x in moved.items():
        error = float((x - expected[name]).norm() / expected[name].norm())
        if not error <= tolerance:
            raise SystemExit(f"wrong answer: {name} moved differently, relative error {error:.2e}")


def bench(name: str, o: argparse.Namespace) -> dict[str, dict[str, float]]:
    histories = any(g.sequences for g in CASES[name].model().groups)
    batch = batch_of(o.batch, o.rows, histories).to(o.device)
    expected, _ = first_steps(make(name, "eager", o), batch, o.device)
    steps, peaks, states = {}, {}, {}
    for c in o.candidates:
        steps[c] = make(name, c, o)
        moved, peaks[c] = first_steps(steps[c], batch, o.device)
        check(moved, expected, 0.5 if "bf16" in c else 0.02 if o.device == "cpu" else 0.2)  # tf32 on the GPU
        del moved
    for c in o.candidates:
        states[c] = steps[c].init(key(1, o.device))

    def runner(c: str) -> Callable[[], None]:
        def one() -> None:
            states[c], _ = steps[c].train(states[c], batch)

        return one

    ms = machine.side_by_side({c: runner(c) for c in o.candidates}, repeats=o.repeats, device=o.device)
    return {c: {"ms": t} | ({"peak_mib": peaks[c]} if o.device != "cpu" else {}) for c, t in ms.items()}


def main() -> None:
    o = arguments()
    torch.backends.cuda.matmul.allow_tf32 = True
    on = machine.name(o.device)
    print(on, flush=True)
    sizes = {"rows": o.rows, "batch": o.batch, "repeats": o.repeats}
    command = shlex.join(["python", *sys.argv])
    results: dict[str, Any] = {"command": command, "machine": on, **sizes, "models": {}}
    for name in o.models:
        torch.compiler.reset()
        measured, ceilings = bench(name, o), machine.ceilings(o.device)
        results["models"][name] = {"steps": measured, "ceilings": ceilings}
        print("ceilings just after: " + ", ".join(f"{k} {v:.0f}" for k, v in ceilings.items()))
        first = measured[o.candidates[0]]["ms"]
        for c, r in measured.items():
            line = f"{name:16s} {c:26s} {r['ms']:8.2f} ms {o.batch / r['ms'] * 1e3:11,.0f} rows/s"
            line += f"  {first / r['ms']:5.2f}x {o.candidates[0]}"
            if "peak_mib" in r:
                line += f"  peak {r['peak_mib']:,.0f} MiB"
            if name in RECORDED_MS and o.device == "cpu":
                line += f"  {RECORDED_MS[name] / r['ms']:.1f}x TorchEasyRec's recorded {RECORDED_MS[name]:.0f} ms"
            print(line, flush=True)
        if o.out:
            o.out.parent.mkdir(parents=True, exist_ok=True)
            o.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
